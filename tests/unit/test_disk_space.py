"""Whether there is room on the disk: what is refused, and what is only told."""

from __future__ import annotations

import pytest

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.disk_space import Room, compare
from dharma_tasks.operations.elasticsearch import disk
from dharma_tasks.words import size

GIGABYTE = 10**9
EIGHT = Room.of(8 * GIGABYTE)


def warned(need: float, room: Room = EIGHT, *, certain: bool = True) -> list[str]:
    """What is said of an operation that needs so many gigabytes."""
    said: list[str] = []
    compare(room, int(need * GIGABYTE), "copying", said.append, certain=certain)
    return said


def test_enough() -> None:
    """Nothing is said."""
    assert warned(4.7) == []


def test_near() -> None:
    """It goes on, and a person knows."""
    said = "copying needs about 5.0 GB of disk space, and 8.0 GB are free"
    assert warned(5) == [said]
    above = Room(8 * GIGABYTE, 7 * GIGABYTE, 1, "no replicas")
    assert warned(5, above) == [f"{said}; no replicas"]


def test_too_much() -> None:
    """It says how much is missing, and what to do where it is wrong."""
    with pytest.raises(OperationFailed, match=r"7.3 GB .* 8.0 GB are free, of which 7.2 GB can"):
        warned(7.3)
    with pytest.raises(OperationFailed, match='"check_disk": false'):
        warned(0.001, Room.of(0))


def test_the_most_that_it_can_be() -> None:
    """What may be far less is not refused."""
    assert warned(99, certain=False) == [
        "copying needs at most 99 GB of disk space, and 8.0 GB are free"
    ]


def node(gigabytes: float) -> JSON:
    """A disk of 1,000 GB, of which so many are free."""
    return {"total_in_bytes": 1000 * GIGABYTE, "available_in_bytes": gigabytes * GIGABYTE}


WATERMARKS = {
    "percent": ({"low": "85%", "flood_stage": "95%"}, [200], 150, 50),
    "ratios": ({"low": "0.85", "flood_stage": "0.95"}, [200], 150, 50),
    "bytes": ({"low": "20gb", "flood_stage": "10GB"}, [200], 200 - 10.737, 200 - 21.475),
    "of a large disk": (
        {
            "low": "85%",
            "flood_stage": "95%",
            "low.max_headroom": "100gb",
            "flood_stage.max_headroom": "-1",
        },
        [200],
        150,
        200 - 107.374,
    ),
    "several nodes, one of them full": ({"low": "85%", "flood_stage": "95%"}, [200, 30], 150, 50),
}


@pytest.mark.parametrize(
    ("marks", "free", "most", "easily"), WATERMARKS.values(), ids=WATERMARKS.keys()
)
def test_watermarks(marks: JSON, free: list[float], most: float, easily: float) -> None:
    """However they are written; what is beyond them on one node is no debt of another."""
    settings = {f"watermark.{name}": value for name, value in marks.items()}
    found = disk._room([node(each) for each in free], settings)
    assert found.free == sum(free) * GIGABYTE
    assert found.most / GIGABYTE == pytest.approx(most, abs=0.001)
    assert found.easily / GIGABYTE == pytest.approx(easily, abs=0.001)
    assert disk._room([node(7)], {**settings, "threshold_enabled": "false"}) == Room.of(
        7 * GIGABYTE
    )


def test_bytes_as_people_read_them() -> None:
    """In three digits."""
    numbers = [0, 999, 1000, 9_900, 123_456_789, 4_200_000_000, 7_700_000_000_000_000]
    assert [size(each) for each in numbers] == [
        *("0 B", "999 B", "1.0 kB", "9.9 kB", "123 MB", "4.2 GB", "7,700 TB")
    ]
