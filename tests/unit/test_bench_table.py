"""The tables of `make bench`: pairs are compared with each other, and a miss is seen."""

from __future__ import annotations

from benchmarks.rounds import measure
from benchmarks.table import Check, Table, Times, compared, ratio


def test_ratios_are_of_pairs() -> None:
    """A round in which the machine was busy is slow for both, and changes no ratio."""
    times: Times = {"plain": [1, 10, 1], "ours": [2, 20, 2]}
    assert ratio(times, "ours", "plain") == 0.5
    head, rows = compared(times, 100, "rows")
    assert head[-1] == "speed, plain = 1"
    assert rows[1] == ["ours", "2.00 s", "50", "2.00 to 20.00 s", "0.50"]


def test_every_way_goes_first_once() -> None:
    """In turn, and each once a round; what one of them measures keeps its name."""
    order: list[str] = []

    def way(name: str) -> Times:
        order.append(name)
        return {name: [len(order)]}

    times, loads = measure([lambda: way("a"), lambda: way("b")], 2, lambda: order.append("|"))
    assert "".join(order) == "|ab|ba"
    assert list(times) == ["a", "b"]
    assert len(loads) == 2


def test_a_miss_is_seen() -> None:
    """At most and at least, in words too."""
    low, high = Check("speed", 0.5, 0.95), Check("time", 5, 4, at_most=True, unit=" s")
    assert not low.met
    assert not high.met
    assert Check("speed", 0.95, 0.95).met
    text = str(Table("T", ["a", "b"], [["1", "2"]], [low, high], ["a note"], [0.25]))
    assert "| 1 | 2 |" in text
    assert "- speed: 0.50, at least 0.95: **missed**" in text
    assert "- time: 5.00 s, at most 4 s: **missed**" in text
    assert "before each round: 0.2" in text
