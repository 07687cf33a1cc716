"""Values and before-images that only who has the key can read: Fernet, of `cryptography`.

`DHARMA_ENCRYPTION_KEY` holds one key, or several with commas or lines between them: the first
encrypts, all of them decrypt. So a new key is put before the old one, which stays as long as
anything is to be read that it has encrypted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.settings import Settings

try:
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet
except ImportError:  # the extra is not there: whoever needs it is told
    Fernet = None  # type: ignore[assignment,misc]

__all__ = ["Cipher", "NotOurs", "cipher", "new_key"]

_SETTING = "DHARMA_ENCRYPTION_KEY"


class NotOurs(Exception):
    """None of the keys has encrypted this, or it was changed since."""


class Cipher:
    """The keys of one process."""

    def __init__(self, keys: list[str]) -> None:
        """At least one. Raises ValueError for one that is none."""
        self._keys = MultiFernet([Fernet(key) for key in keys])
        self.names = tuple(_name(key) for key in keys)
        """By which the keys are told apart; that of the one that encrypts is the first."""

    def encrypt(self, data: bytes) -> bytes:
        """As bytes, and with the time of this moment in them."""
        return base64.urlsafe_b64decode(self._keys.encrypt(data))

    def decrypt(self, data: bytes) -> bytes:
        """What `encrypt` was given. Raises `NotOurs`."""
        try:
            return self._keys.decrypt(base64.urlsafe_b64encode(data))
        except InvalidToken:
            raise NotOurs from None

    def write(self, value: Any) -> str:
        """A JSON value, as it stands in a migration."""
        return base64.urlsafe_b64encode(self.encrypt(json.dumps(value).encode())).decode()

    def read(self, text: str) -> Any:
        """What `write` was given. Raises `NotOurs`."""
        try:
            encrypted = base64.urlsafe_b64decode(text)
        except ValueError:  # cut off where it was copied
            raise NotOurs from None
        return json.loads(self.decrypt(encrypted))


def cipher(settings: Settings) -> Cipher | None:
    """That of the settings; None where they have no key.

    Raises:
        Refused: what is set is no key, or the library is not installed.
    """
    if settings.encryption_key is None:
        return None
    _confirm_installed()
    text = settings.encryption_key.get_secret_value()
    try:
        return Cipher([key for key in re.split(r"[,\s]+", text) if key])
    except ValueError:
        todo = "Make one with `dharma encrypt --new-key`; the old ones go behind it, with commas."
        raise Refused(
            [Problem("", "", f"{_SETTING} holds something that is no key", todo)]
        ) from None


def new_key() -> str:
    """A key that nobody else has.

    Raises:
        Refused: the library is not installed.
    """
    _confirm_installed()
    return Fernet.generate_key().decode()


def _confirm_installed() -> None:
    if Fernet is None:
        what = "encryption needs the library cryptography, which is not installed"
        raise Refused([Problem("", "", what, "pip install 'dharma-tasks[encryption]'.")])


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
