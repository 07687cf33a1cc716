"""The checker: what must hold between the migrations of a folder."""

from __future__ import annotations

from dharma_tasks.checker import Entry, check
from dharma_tasks.migration import Reference


def entry(database: str, number: int, version: str, *dependencies: str) -> Entry:
    """A file named by its number, with references as its dependencies."""
    needs = {index: Reference(text) for index, text in enumerate(dependencies)}
    return Entry(database, version, number, f"{database}/{number:03d}.json", needs)


def said(*entries: Entry, unread: tuple[str, ...] = ()) -> list[str]:
    """The problems as a user reads them."""
    return [str(problem) for problem in check(entries, unread)]


def test_nothing_wrong() -> None:
    """Gaps, versions of two digits and dependencies in both directions are fine."""
    assert not said(
        entry("mongodb", 9, "1.9.0"),
        entry("mongodb", 12, "1.10.0", "mongodb:1.9.0", "postgresql:1.0.0"),
        entry("postgresql", 1, "1.0.0", "mongodb:1.9.0"),
        entry("postgresql", 1000, "2.0.0", "mongodb:1.10.0"),
    )


def test_equal_versions() -> None:
    """Both files are named; other databases may have the same version."""
    assert said(
        entry("mongodb", 1, "1.0.0"),
        entry("mongodb", 2, "1.0.0"),
        entry("postgresql", 1, "1.0.0"),
    ) == [
        (
            "mongodb/002.json, version: has the version 1.0.0, as mongodb/001.json has. "
            "Give one of them another version."
        )
    ]


def test_equal_numbers() -> None:
    """Two people added a file at the same time."""
    one = entry("mongodb", 1, "1.0.0")
    other = Entry("mongodb", "1.1.0", 1, "mongodb/0001_x.json", {})
    assert said(one, other) == [
        (
            "mongodb/001.json: has the number 001, as mongodb/0001_x.json has. "
            "Give one of them another number."
        )
    ]


def test_numbers_out_of_step() -> None:
    """A version below one with a lower number; the next one is measured by the highest."""
    assert said(
        entry("mongodb", 1, "1.2.0"),
        entry("mongodb", 2, "1.0.0"),
        entry("mongodb", 3, "1.1.0"),
        entry("mongodb", 4, "1.3.0"),
    ) == [
        (
            "mongodb/002.json, version: has the version 1.0.0, below 1.2.0 of mongodb/001.json. "
            "Versions rise with the files' numbers: change the version or the number."
        ),
        (
            "mongodb/003.json, version: has the version 1.1.0, below 1.2.0 of mongodb/001.json. "
            "Versions rise with the files' numbers: change the version or the number."
        ),
    ]


def test_unknown_dependency() -> None:
    """The nearest migration is named, or every one where none is near."""
    assert said(
        entry("mongodb", 1, "1.0.0", "postgresql:1.0.1"),
        entry("postgresql", 1, "1.0.0"),
    ) == [
        (
            "mongodb/001.json, dependencies[0]: depends on postgresql:1.0.1, which is not in the "
            "migrations folder. Did you mean 'postgresql:1.0.0'?"
        )
    ]
    assert not said(entry("mongodb", 1, "1.0.0", "postgresql:1.0.1"), unread=("postgresql",))


def test_own_dependencies() -> None:
    """A migration cannot need itself, nor one that its own order puts after it."""
    assert said(
        entry("mongodb", 1, "1.0.0", "mongodb:1.0.0"),
        entry("mongodb", 2, "1.1.0", "mongodb:1.0.0", "mongodb:1.2.0"),
        entry("mongodb", 3, "1.2.0"),
    ) == [
        "mongodb/001.json, dependencies[0]: depends on itself. Remove it.",
        (
            "mongodb/002.json, dependencies[1]: depends on mongodb:1.2.0 (mongodb/003.json), which "
            "comes after it. Give this migration the higher version."
        ),
    ]


def test_circle() -> None:
    """Every link is shown with its file."""
    assert said(
        entry("mongodb", 1, "1.0.0", "postgresql:1.0.0"),
        entry("postgresql", 1, "1.0.0", "elasticsearch:1.0.0"),
        entry("elasticsearch", 1, "1.0.0", "mongodb:1.0.0"),
    ) == [
        (
            "elasticsearch/001.json, dependencies[0]: a circle: elasticsearch:1.0.0 "
            "(elasticsearch/001.json), which needs mongodb:1.0.0 (mongodb/001.json), which needs "
            "postgresql:1.0.0 (postgresql/001.json), which needs elasticsearch:1.0.0 "
            "(elasticsearch/001.json). Remove one of these dependencies, or split a migration."
        )
    ]


def test_circle_through_the_order() -> None:
    """Nobody wrote that 1.2.0 follows 1.0.0, but it does, and that closes the circle."""
    (problem,) = said(
        entry("mongodb", 1, "1.0.0", "postgresql:1.0.0"),
        entry("mongodb", 2, "1.1.0"),
        entry("mongodb", 3, "1.2.0"),
        entry("postgresql", 1, "1.0.0", "mongodb:1.2.0"),
    )
    assert problem.startswith(
        "mongodb/001.json, dependencies[0]: a circle: mongodb:1.0.0 (mongodb/001.json), which "
        "needs postgresql:1.0.0 (postgresql/001.json), which needs mongodb:1.2.0 "
        "(mongodb/003.json), which comes after mongodb:1.0.0. "
    )


def test_circle_through_both_orders() -> None:
    """Two databases that wait for each other crosswise."""
    (problem,) = said(
        entry("mongodb", 1, "1.0.0", "postgresql:1.1.0"),
        entry("mongodb", 2, "1.1.0"),
        entry("postgresql", 1, "1.0.0", "mongodb:1.1.0"),
        entry("postgresql", 2, "1.1.0"),
    )
    assert problem.startswith(
        "mongodb/001.json, dependencies[0]: a circle: mongodb:1.0.0 (mongodb/001.json), which "
        "needs postgresql:1.1.0 (postgresql/002.json), which comes after postgresql:1.0.0 "
        "(postgresql/001.json), which needs mongodb:1.1.0 (mongodb/002.json), which comes after "
        "mongodb:1.0.0. "
    )


def test_two_circles() -> None:
    """Circles that have nothing in common are both shown."""
    problems = said(
        entry("mongodb", 1, "1.0.0", "postgresql:1.0.0"),
        entry("postgresql", 1, "1.0.0", "mongodb:1.0.0"),
        entry("mongodb", 2, "1.1.0", "postgresql:1.1.0"),
        entry("postgresql", 2, "1.1.0", "mongodb:1.1.0"),
    )
    assert sum("a circle: " in problem for problem in problems) == 2


def test_ten_thousand_migrations_are_checked_soon() -> None:
    """Neither recursion nor time that grows with the square of the folder."""
    many = [entry("mongodb", n, f"1.{n}.0") for n in range(1, 10_000)]
    last = entry("postgresql", 1, "1.0.0", "mongodb:1.9999.0")
    first = entry("mongodb", 0, "0.0.1", "postgresql:1.0.0")
    (problem,) = said(first, *many, last)
    assert "which comes after mongodb:0.0.1" in problem
