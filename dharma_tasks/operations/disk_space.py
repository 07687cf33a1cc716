"""Whether the disk has room for what a bulk operation is about to write.

A disk that is full hurts more than the operation: MongoDB ends itself, and Elasticsearch lets
nothing more be written to any index on it. What is needed is an estimate, so whoever knows better
can leave the comparison out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dharma_tasks.errors import OperationFailed
from dharma_tasks.words import size

__all__ = ["Room", "compare", "unseen"]

_FULL = 0.9
"""The part of what is free that one operation may fill."""
_NEAR = 0.6
"""The part of it from which on that is told."""

_TODO = 'Make room, or write "check_disk": false where you know that it takes less'


@dataclass(frozen=True)
class Room:
    """How many bytes are `free`, `most` of which may be filled, and `easily` without a word.

    `beyond` says what happens where more than that is filled, if that is not plain.
    """

    free: int
    most: int
    easily: int
    beyond: str = ""

    @classmethod
    def of(cls, free: int) -> Room:
        """Where nothing but the end of the disk is in the way."""
        return cls(free, int(free * _FULL), int(free * _NEAR))


def compare(
    room: Room, need: int, what: str, warn: Callable[[str], None], *, certain: bool = True
) -> None:
    """Compare the room with the bytes that `what` needs; where it is scarce, `warn`.

    What is not `certain` is the most that it can be.

    Raises:
        OperationFailed: it is certainly too much.
    """
    about = "about" if certain else "at most"
    said = f"{what} needs {about} {size(need)} of disk space, and {size(room.free)} are free"
    if need > room.most and certain:
        raise OperationFailed(f"{said}, of which {size(room.most)} can be filled", _TODO)
    if need > room.easily:
        warn(f"{said}; {room.beyond}" if room.beyond else said)


def unseen(why: str) -> str:
    """What to say where nobody may see how much is free."""
    return f"how much disk space is free cannot be seen, so nothing was compared: {why}"
