"""Signatures: a worker acts on what Redis holds only where somebody with the key has put it there.

A signature is an HMAC-SHA256 over the very text that is stored, what kind of text it is, the
namespace, and whatever else it must not be taken from: the run, the migration, the database. So
none of it counts as another kind, of another run, or in another place. docs/security.md says who
signs what, and what a worker looks at before it acts.

Without a key nothing is signed, and everything is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from dharma_tasks.errors import Unsigned
from dharma_tasks.migration import JSON, Reference
from dharma_tasks.settings import Settings

_FORMAT = "1"
_CHANGED = "Look who else can write to Redis; then ask for the same again."
_KEY = "Set DHARMA_SIGNING_KEY to the one that the workers have, and ask for the same again."
_CLOCKS = "Ask for the same again. Where it was asked for just now, clocks differ: look at them."

MAKE_ONE = (
    "Make a key (openssl rand -hex 32), and give it to the workers and to all that submit: "
    "docs/security.md."
)
"""What to do where there is none."""
RECENT = timedelta(days=1)
"""How long what was asked for may take to begin. Redis may hold it back, but not for later."""
_AHEAD = timedelta(minutes=5)
"""How much clocks may differ."""


class Kind(StrEnum):
    """What a signature is for: one of one kind is never good for another."""

    RECORD = "record"
    MIGRATION = "migration"
    SURVEY = "survey"
    PLAN = "plan"
    CONFIRMED = "confirmed"
    TURN = "turn"
    CONTROL = "control"
    ASKED = "asked"

    def of(self, name: str) -> str:
        """The field of a run's `signatures` that has the one of `name`."""
        return f"{self} {name}"


_WHAT = {
    Kind.RECORD: "the run's record",
    Kind.MIGRATION: "a migration in the run's record",
    Kind.SURVEY: "what a journal said",
    Kind.PLAN: "the run's plan",
    Kind.CONFIRMED: "the confirmation of a dependency",
    Kind.TURN: "that a migration is to be undone",
    Kind.CONTROL: "the run's last pause, resume or cancel",
    Kind.ASKED: "what was asked of this worker",
}


class Signer:
    """Signs with the first of its keys, and believes what is signed with any of them."""

    def __init__(self, namespace: str, *keys: str) -> None:
        """Without keys it signs nothing and believes everything."""
        self._namespace = namespace
        self._keys = {_name(key): key.encode() for key in keys}

    @property
    def on(self) -> bool:
        """Whether there is a key."""
        return bool(self._keys)

    def sign(self, kind: Kind, *parts: str) -> str:
        """Sign `parts`, in their order, as `kind`; "" without a key."""
        for name, key in self._keys.items():
            return f"{_FORMAT} {name} {self._digest(key, kind, parts)}"
        return ""

    def confirm(self, kind: Kind, signature: str | None, *parts: str) -> None:
        """Make sure that `parts` were signed as `kind` by somebody who has one of the keys.

        Raises:
            Unsigned: they were not; never without a key.
        """
        if not self.on:
            return
        what = _WHAT[kind]
        if not signature:
            msg = f"{what} is not signed, and this worker has a DHARMA_SIGNING_KEY"
            raise Unsigned(msg, _KEY)
        form, _, rest = signature.partition(" ")
        name, _, digest = rest.partition(" ")
        key = self._keys.get(name)
        if form != _FORMAT or key is None:
            msg = f"{what} is signed with another DHARMA_SIGNING_KEY than this worker has"
            raise Unsigned(msg, _KEY)
        # As bytes: of text that is not ASCII compare_digest takes none.
        if not hmac.compare_digest(self._digest(key, kind, parts).encode(), digest.encode()):
            msg = f"{what} was changed in Redis since it was signed, or is another one's"
            raise Unsigned(msg, _CHANGED)

    def _digest(self, key: bytes, kind: Kind, parts: tuple[str, ...]) -> str:
        code = hmac.new(key, digestmod=hashlib.sha256)
        for part in ("dharma-tasks", _FORMAT, kind, self._namespace, *parts):
            encoded = part.encode("utf-8", "surrogatepass")
            code.update(len(encoded).to_bytes(8, "big") + encoded)
        return code.hexdigest()


def _name(key: str) -> str:
    """What a key is known by, which says nothing of it."""
    return hmac.new(key.encode(), b"dharma-tasks key", hashlib.sha256).hexdigest()[:8]


def signer(settings: Settings) -> Signer:
    """The signer of a process with these settings."""
    if settings.signing_key is None:
        return Signer(settings.namespace)
    keys = settings.signing_key, settings.signing_key_accepted
    return Signer(settings.namespace, *(key.get_secret_value() for key in keys if key))


def advice(settings: Settings) -> str | None:
    """What is to be said where there is no key; None where there is one."""
    if settings.signing_key is not None:
        return None
    return (
        "DHARMA_SIGNING_KEY is not set: whoever can write to Redis can have anything executed in "
        "the databases"
    )


def digest(definitions: Mapping[Reference, str]) -> str:
    """Of a whole set of migrations, each by its reference: none can be added or taken away."""
    found = hashlib.sha256()
    for name, text in sorted(definitions.items()):
        found.update(f"{name} {hashlib.sha256(text.encode()).hexdigest()}\n".encode())
    return found.hexdigest()


def canonical(arguments: JSON) -> str:
    """The arguments of a message as one text, which does not depend on how JSON carries them."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":"))


def confirm_recent(asked: datetime, what: str) -> None:
    """Make sure that it is no older than `RECENT`, and not of a time to come.

    Raises:
        Unsigned: it is.
    """
    age = datetime.now(UTC) - asked
    if age > RECENT or age < -_AHEAD:
        msg = f"{what} was asked for at {asked:%Y-%m-%d %H:%M:%S} UTC, and not within the last day"
        raise Unsigned(msg, _CLOCKS)
