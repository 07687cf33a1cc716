"""From an operation in the run's record to the one that is carried out, with its secrets."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import ValidationError

from dharma_tasks.encryption import Cipher, NotOurs, cipher
from dharma_tasks.errors import Refused, StepAside, Unequipped
from dharma_tasks.flow.context import Context
from dharma_tasks.hidden import NOTHING, Hidden, misplaced, reveal
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Operation
from dharma_tasks.run import Job
from dharma_tasks.settings import Settings


def parsed(context: Context, job: Job) -> tuple[Operation[Any], Hidden]:
    """The operation, and what was hidden in it: a worker knows that while it works on it.

    Where a value does not fit, or on the way back is missing, it is the operation as it is written,
    with which nothing is to be done.

    Raises:
        StepAside: this worker is too old for it, or has not what it needs; the run is told.
    """
    key = job.at.key
    raw, operations = job.migration.operation(key.number), catalogue(key.database)
    try:
        found = operations.parse(raw)
    except (KeyError, ValidationError):
        # The submit has checked it, so whoever does not know it is older (Law 7).
        msg = f"this worker is too old for the operation {raw['type']!r}, which waits"
        context.tell(job.run, "waiting", f"{key}: {msg}")
        raise StepAside(msg) from None
    back = job.at.until is not None
    if job.cancelled or (back and not found.undo_needs_secrets()):
        return found, NOTHING
    parameters = {name: value for name, value in raw.items() if name != "type"}
    try:
        revealed, hidden = _revealed(context.settings, found, parameters)
    except (Unequipped, Refused) as error:
        msg = f"it cannot be carried out by {context.worker}, and waits for another worker: {error}"
        if back:  # perhaps nothing is to be undone: the runner sees
            return found, Hidden(missing=msg)
        context.tell(job.run, "waiting", f"{key}: {msg}")
        raise Unequipped(msg) from None
    if revealed == parameters:
        return found, NOTHING
    try:
        return type(found).model_validate(revealed), hidden
    except ValidationError as error:  # its text quotes what it finds wrong
        return found, replace(hidden, unfit=str(error.errors()[0]["loc"][0]))


def _revealed(
    settings: Settings, operation: Operation[Any], parameters: JSON
) -> tuple[JSON, Hidden]:
    for _, problem in misplaced(parameters, operation.hides):
        raise Unequipped(str(problem))  # whoever has written this record is no submit

    def secret(name: str) -> str:
        found = settings.secret_text(name)
        if found is None:
            raise Unequipped(f"DHARMA_SECRET_{name} is not set there")
        return found

    @cache
    def key() -> Cipher | None:
        return cipher(settings)

    def decrypted(text: str) -> Any:
        known = key()
        if known is None:
            raise Unequipped("DHARMA_ENCRYPTION_KEY is not set there")
        try:
            return known.read(text)
        except NotOurs:
            raise Unequipped("its DHARMA_ENCRYPTION_KEY is not the one of this value") from None

    return reveal(parameters, secret, decrypted)
