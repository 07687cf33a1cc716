"""What must hold between the migrations of a folder: order, numbers, dependencies.

Only names are looked at, so that the check also runs over files whose operations are wrong,
and one refusal shows everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from dharma_tasks.errors import Problem
from dharma_tasks.explain import suggestion
from dharma_tasks.migration import Reference, Version, order_of, reference

__all__ = ["Entry", "check"]


@dataclass(frozen=True)
class Entry:
    """What the check needs to know of one migration file.

    `number` is the file's NNN, `dependencies` by their index in the file's own list.
    """

    database: str
    version: str
    number: int
    file: str
    dependencies: Mapping[int, Reference]

    @property
    def reference(self) -> Reference:
        """The migration's name."""
        return reference(self.database, self.version)

    @property
    def order(self) -> Version:
        """What entries of one database are sorted by."""
        return order_of(self.version)

    def place(self, dependency: Reference) -> str:
        """Where in the file `dependency` is named."""
        indices = (i for i, named in self.dependencies.items() if named == dependency)
        return f"dependencies[{next(indices)}]"


def check(entries: Sequence[Entry], unread: Collection[str] = ()) -> list[Problem]:
    """Find every problem between `entries`.

    `unread` names databases with files whose version is not known: a dependency on such a
    database that is not found may well be one of them, and is not called unknown.
    """
    databases: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        databases[entry.database].append(entry)
    known = {entry.reference: entry for entry in entries}
    return [
        *(problem for same in databases.values() for problem in _order(same)),
        *(problem for entry in entries for problem in _dependencies(entry, known, unread)),
        *_circles(databases, known),
    ]


def _order(entries: list[Entry]) -> Iterator[Problem]:
    """Versions are unique and rise with the numbers of the files; gaps are fine."""
    by_version = sorted(entries, key=lambda entry: (entry.order, entry.file))
    for one, other in pairwise(by_version):
        if one.version == other.version:
            what = f"has the version {other.version}, as {one.file} has"
            yield Problem(other.file, "version", what, "Give one of them another version.")
    highest: Entry | None = None
    for entry in sorted(entries, key=lambda entry: (entry.number, entry.file)):
        if highest and entry.number == highest.number:
            what = f"has the number {entry.number:03d}, as {highest.file} has"
            yield Problem(entry.file, "", what, "Give one of them another number.")
        elif highest and entry.order < highest.order:
            what = f"has the version {entry.version}, below {highest.version} of {highest.file}"
            todo = "Versions rise with the files' numbers: change the version or the number."
            yield Problem(entry.file, "version", what, todo)
        if highest is None or entry.order >= highest.order:
            highest = entry


def _dependencies(
    entry: Entry, known: Mapping[Reference, Entry], unread: Collection[str]
) -> Iterator[Problem]:
    for wanted in dict.fromkeys(entry.dependencies.values()):
        place = entry.place(wanted)
        needed = known.get(wanted)
        if wanted == entry.reference:
            yield Problem(entry.file, place, "depends on itself", "Remove it.")
        elif needed and needed.database == entry.database and needed.order > entry.order:
            what = f"depends on {wanted} ({needed.file}), which comes after it"
            yield Problem(entry.file, place, what, "Give this migration the higher version.")
        elif not needed and wanted.partition(":")[0] not in unread:
            what = f"depends on {wanted}, which is not in the migrations folder"
            yield Problem(entry.file, place, what, suggestion(wanted, known, "migrations"))


def _circles(
    databases: Mapping[str, list[Entry]], known: Mapping[Reference, Entry]
) -> Iterator[Problem]:
    """Each circle that dependencies make with each other and with the order by version."""
    graph: dict[Reference, set[Reference]] = {}
    for entries in databases.values():
        previous: Entry | None = None
        for entry in sorted(entries, key=lambda entry: entry.order):
            graph[entry.reference] = _explicit(entry, known)
            if previous and previous.reference != entry.reference:
                graph[entry.reference].add(previous.reference)
            previous = entry
    while circle := _circle(graph):
        yield _circle_problem(circle, known)
        for name in circle:  # so that the next round finds a circle of other migrations
            graph.pop(name, None)
        graph = {name: needs - set(circle) for name, needs in graph.items()}


def _explicit(entry: Entry, known: Mapping[Reference, Entry]) -> set[Reference]:
    """The dependencies without those in its own database: lower ones the order implies."""
    return {
        wanted
        for wanted in entry.dependencies.values()
        if wanted in known and known[wanted].database != entry.database
    }


def _circle(graph: Mapping[Reference, set[Reference]]) -> list[Reference]:
    """A circle in which each one needs the next; the first is not repeated at the end."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[Reference] = error.args[1]
        return circle[:0:-1]
    return []


def _circle_problem(circle: list[Reference], known: Mapping[Reference, Entry]) -> Problem:
    """Show only the links that somebody wrote, and what the order by version adds to them."""
    needs = {
        name: following
        for name, following in pairwise([*circle, circle[0]])
        if following in known[name].dependencies.values()
    }
    first = min(needs)
    turn = circle.index(first)
    shown = known[first].reference
    text = f"{shown} ({known[first].file})"
    after: Reference | None = None
    for name in circle[turn:] + circle[:turn]:
        if name not in needs:
            continue
        if after is not None and after != name:
            text += f", which comes after {name} ({known[name].file})"
        text += f", which needs {needs[name]} ({known[needs[name]].file})"
        after = needs[name]
    if after is not None and after != first:
        text += f", which comes after {first}"
    todo = "Remove one of these dependencies, or split a migration."
    return Problem(known[first].file, known[first].place(needs[first]), f"a circle: {text}", todo)
