"""`dharma encrypt`: a value that may stand in a migration, and that only workers can read."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from dharma_tasks import encryption
from dharma_tasks.cli.common import REFUSED, on_terminal, settings
from dharma_tasks.cli.examples import examples
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.hidden import ENCRYPTED
from dharma_tasks.strict_json import value_of

_NO_KEY = (
    "Make one with `dharma encrypt --new-key`, and set it here and at the workers, "
    "DHARMA_ENCRYPTION_KEY_FILE in the best case."
)

_STRICT = "No key twice, no NaN; a text has quotes, or leave out --json."


@click.command(
    epilog=examples("dharma encrypt --new-key", "dharma encrypt", "dharma encrypt --json")
)
@click.option("--new-key", is_flag=True, help="Make a key instead, and print it.")
@click.option("--json", "as_json", is_flag=True, help="The value is JSON, not text.")
def encrypt(*, new_key: bool, as_json: bool) -> None:
    """Encrypt a value for a migration, with the first key of DHARMA_ENCRYPTION_KEY.

    The value is read from the standard input, without the line end behind it, or asked for on a
    terminal: what stands on a command line can be seen by others. What is printed goes into the
    migration in the value's place.

    Exit status: 0 done; 2 refused.
    """
    try:
        click.echo(encryption.new_key() if new_key else _encrypted(as_json=as_json))
    except Refused as refused:
        click.echo(str(refused), err=True)
        sys.exit(REFUSED)


def _encrypted(*, as_json: bool) -> str:
    """The value as it stands in a migration."""
    known = encryption.cipher(settings())
    if known is None:
        raise Refused([Problem("", "", "DHARMA_ENCRYPTION_KEY is not set", _NO_KEY)])
    text = _asked() if on_terminal() else sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not text:
        raise Refused([Problem("", "", "there is no value", "Give it on the standard input.")])
    return json.dumps({ENCRYPTED: known.write(_json(text) if as_json else text)})


def _asked() -> str:
    value: str = click.prompt("The value", hide_input=True, err=True)
    return value


def _json(text: str) -> Any:
    """Read it as a migration is read; what is wrong is said without it."""
    try:
        json.loads(text)
        return value_of(text)
    except (ValueError, Refused):
        raise Refused(
            [Problem("", "", "the value is not the JSON that we take", _STRICT)]
        ) from None
