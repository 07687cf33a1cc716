"""What goes on with what has stopped: a submit, or on the way back a rollback.

Nobody can go forward over a migration that is half undone (see the planner), so advice that
speaks of a submit would lead in a circle there.
"""

from __future__ import annotations

from dharma_tasks.records import Direction, MigrationState

__all__ = ["after_failure", "after_stop", "again", "repair", "rollback"]

_FORWARD = (
    "Correct the cause and submit again. What is applied stays. A failed migration goes on where "
    "it stopped, with its file as it is; one that was rolled back may be changed first, and "
    "begins anew. `dharma status` shows which it is."
)
_BACK = (
    "Correct the cause and give the same rollback again: it goes on where it stopped, with the "
    "files as they are. What is rolled back stays so, and what is not run is still applied."
)
_HALF = (
    "Correct the cause and finish the way back first, with the file as it is: `dharma status` "
    "names the command. What is applied stays."
)
_FAILED = (
    "Correct the cause and submit again: it goes on where it stopped. Its file must stay as it is."
)
_ROLLED_BACK = (
    "It is rolled back, and a submit begins it anew: correct the cause, or its file, first."
)


def after_failure(direction: Direction, *, half_undone: bool) -> str:
    """What to do about a run that has failed; `half_undone` when a way back of it has too."""
    if direction is Direction.BACK:
        return _BACK
    return _HALF if half_undone else _FORWARD


def after_stop(state: MigrationState, back: str | None) -> str:
    """What to do about one migration that failed; `back` finishes its way back, if it is on it."""
    if back:
        return f"Correct the cause and finish the way back: {back}"
    return _ROLLED_BACK if state is MigrationState.ROLLED_BACK else _FAILED


def again(direction: Direction, *, half_undone: bool = False) -> str:
    """The command that goes on with what such a run has open, in a word or two."""
    if direction is Direction.BACK:
        return "the same rollback"
    return "`dharma rollback`" if half_undone else "the same submit"


def rollback(database: str, below: str | None) -> str:
    """The command that undoes what is above the version `below`, or all there is."""
    return f"dharma rollback {below or '0.0.0'} --databases {database}"


def repair(database: str, version: str, option: str) -> str:
    """The command with which a person declares what is true of a migration."""
    return f"dharma repair {database} {version} {option}"
