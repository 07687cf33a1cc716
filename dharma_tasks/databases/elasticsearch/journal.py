"""The journal in Elasticsearch: compare-and-set on single documents, in an order that heals.

There are no transactions here, so five things replace them:

- An operation's document is the fence. Its owner remembers the sequence number of its own last
  write (`Taken.mark`), and each further write is made only if that is still the last one. Whoever
  takes the work over, in either direction, or opens another run, writes the document, and with
  that shuts out the former owner. `fence` counts these changes of owner for people to read.
- The run's generation is checked without a transaction by an order of events. `begin` first
  writes the head, then refreshes and looks for open operations to fence out. `take` first
  writes the operation, then reads the head. Whatever the interleaving, either the search sees
  the taker's write, or the taker sees the new head.
- In the same way, of two that take neighbouring operations in opposite directions at least one
  sees the other: each writes its own operation, then reads the other one.
- What one step writes is ordered: the operation is done, then the migration is applied, then the
  history tells of it; on the way back it is undone, then rolled back, then told. A crash in
  between is repaired by the next `take`, of this operation or of the one that follows it.
- A declaration is many writes. The head keeps it until all of them are done; whoever opens a run,
  or declares something, completes it first.

What a document becomes is in `operations.py` and `migrations.py` beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace as replaced
from uuid import uuid4

from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan

from dharma_tasks.databases.elasticsearch import declaring, migrations, operations
from dharma_tasks.databases.elasticsearch.documents import (
    Document,
    change,
    create,
    now,
    read,
    replace,
)
from dharma_tasks.databases.elasticsearch.history import History
from dharma_tasks.databases.elasticsearch.indices import Names, make
from dharma_tasks.databases.elasticsearch.migrations import Migrations
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import Declaration, Entry, Journal, Opening, confirm_schema
from dharma_tasks.migration import JSON, Key
from dharma_tasks.records import (
    SCHEMA_VERSION,
    Direction,
    Head,
    HistoryRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Owner,
    Survey,
)
from dharma_tasks.work import Assignment, Earlier, Prepared, Step, Taken

_HEAD = "head"
_PAGE = 1000


class ElasticsearchJournal(Journal[Elasticsearch]):
    """The storage of the journal in four indices whose names begin with the namespace."""

    def __init__(self, client: Elasticsearch, namespace: str) -> None:
        """Remember the client; the indices are made by the first `begin`."""
        self._client = client
        self._names = Names(namespace)
        self._migrations = Migrations(client, self._names.migrations)
        self._history = History(client, self._names.history)
        self._is_made = False

    # --- for planning and status ---

    def survey(self) -> Survey:
        """Read everything. A refresh goes before, because searches see refreshed writes only."""
        head = self.head()
        if head is None:
            return Survey(database="elasticsearch")
        self._client.indices.refresh(index=[self._names.migrations, self._names.operations])
        found: dict[tuple[str, int], list[OperationRecord]] = {}
        for source in self._all(self._names.operations):
            if source["state"] != OperationState.PENDING:
                key = (source["version"], source["era"])
                found.setdefault(key, []).append(operations.record(source))
        return Survey(
            database="elasticsearch",
            head=head,
            migrations=[
                migrations.record(source, found.get((source["version"], source["era"]), []))
                for source in self._all(self._names.migrations)
            ],
        )

    def head(self) -> Head | None:
        """Read the one document of its index."""
        found = read(self._client, self._names.head, _HEAD)
        return None if found is None else _head(found.source)

    def state(self, version: str) -> MigrationState:
        """Read it from the migration's document, and not by a search."""
        found = read(self._client, self._names.migrations, version)
        return MigrationState.PENDING if found is None else MigrationState(found.get("state"))

    def history(self, limit: int) -> list[HistoryRecord]:
        """Read the last entries, as they are found by a search."""
        return self._history.last(limit)

    def _all(self, index: str) -> Iterator[JSON]:
        for hit in scan(self._client, index=index, size=_PAGE):
            yield hit["_source"]

    # --- a run ---

    def begin(self, opening: Opening, expected: int) -> int:
        """Open a run; see the top of this file for why the head is written first."""
        self._make()
        self._complete()
        fields = {"direction": opening.direction.value, "plan": opening.plan, "by": opening.by}
        generation = self._raise_generation(opening.run, expected, fields)
        self._fence_out(generation)
        told = {"run": opening.run, "by": opening.by, "generation": generation}
        self._history.tell("begin", {**told, "detail": opening.detail})
        return generation

    def declare(self, declaration: Declaration, expected: int) -> None:
        """Write it into the head, and then out: whoever comes next completes it."""
        self._make()
        self._complete()
        text = declaring.text(declaration)
        fields = {"plan": None, "by": declaration.by, "declaration": text}
        self._raise_generation(declaration.run, expected, fields)
        self._complete()

    def _complete(self) -> None:
        """Write out what a declaration has left in the head.

        Then the generation rises once more: what was planned on the half of it is refused.
        """
        while True:  # each turn means that somebody else's write succeeded
            head = read(self._client, self._names.head, _HEAD)
            if head is None or head.get("declaration") is None:
                return
            confirm_schema("elasticsearch", head.get("schema_version"))
            generation = int(head.get("generation"))
            declaration = declaring.parsed(head.get("declaration"))
            declaring.Declaring(self._client, self._names, declaration, generation).write()
            self._fence_out(generation)
            for amendment in declaration.amendments:
                self._history.declared(declaration, amendment)
            if replace(self._client, head, {"generation": generation + 1, "declaration": None}):
                return

    def _make(self) -> None:
        """Make the indices, or add what an earlier version of this package did not know."""
        make(self._client, self._names)
        self._is_made = True

    def _raise_generation(self, run: str, expected: int, fields: JSON) -> int:
        changes = {**fields, "run": run, "generation": expected + 1, "updated": now()}
        while True:  # each turn means that somebody else's write succeeded
            head = read(self._client, self._names.head, _HEAD)
            found = 0 if head is None else int(head.get("generation"))
            if head is not None:
                confirm_schema("elasticsearch", head.get("schema_version"))
                if head.get("run") == run:
                    return found
            if found != expected:
                raise FenceLost(_other_run(found, expected))
            if head is None:
                identity = {"identity": uuid4().hex, "schema_version": SCHEMA_VERSION}
                first = {**identity, "direction": Direction.FORWARD.value, **changes}
                if create(self._client, self._names.head, _HEAD, first):
                    return expected + 1
            elif replace(self._client, head, changes):
                return expected + 1

    def _fence_out(self, generation: int) -> None:
        """Raise the fence of every open operation that an older run has taken."""
        index = self._names.operations
        self._client.indices.refresh(index=index)
        query = {
            "bool": {
                "filter": [
                    {"terms": {"state": operations.OPEN}},
                    {"range": {"generation": {"lt": generation}}},
                ]
            }
        }
        for hit in scan(self._client, index=index, query={"query": query}, size=_PAGE):
            change(
                self._client,
                index,
                hit["_id"],
                lambda found: operations.fenced(found, generation),
            )

    # --- an operation ---

    def owner(self, key: Key) -> Owner | None:
        """Who has the operation now; nobody has one that is at its end or has failed."""
        return operations.owner_of(self._operation(key.version, key.number))

    def earlier(self, key: Key) -> list[Earlier]:
        """Read those of its era by their ids: a search does not see the newest."""
        ours = self._operation(key.version, key.number)
        found = (self._operation(key.version, number) for number in range(1, key.number))
        return [
            Earlier(operations.loads(each.get("undo")) or {}, operations.loads(each.get("cursor")))
            for each in found
            if ours and each and operations.state_of(each, ours.get("era")) is OperationState.DONE
        ]

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take the operation over: one compare-and-set raises the fence and returns the cursor."""
        self._check_head(assignment)
        if not self._is_made:  # the run may have been opened by an earlier version
            self._make()
        era = self._migrations.era(assignment)
        self._check_neighbour(assignment, era)
        taken = self._seize(assignment, owner, era, counted=counted, error=error)
        self._check_head(assignment)
        self._check_neighbour(assignment, era)
        self._migrations.start(assignment, era, over=taken.over)
        if taken.over:
            self._conclude(taken, era)
        else:
            of = {"name": assignment.name, "checksum": assignment.checksum}
            self._history.tell("take", taken.mark.source | of)
        return taken

    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what the operation found before its first effect."""
        after = taken.prepared(prepared)
        self._write(taken, {"undo": json.dumps(prepared.undo), "total": after.total})
        return after

    def step(
        self,
        taken: Taken,
        batch: Callable[[Elasticsearch], Step],
        *,
        transactional: bool,  # noqa: ARG002 - there are no transactions
    ) -> Taken:
        """Run one batch, then write its checkpoint; a batch that changed nothing writes none.

        A step that only asked how far a task on the server is would otherwise fill the journal.
        """
        step = batch(self._client)
        after = taken.stepped(step)
        if replaced(after, attempts=taken.attempts) == taken:
            return taken
        self._write(taken, operations.stepped(after))
        if step.finished:
            self._conclude(after, after.mark.get("era"))
        return after

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error and the migration's state."""
        self._write(taken, operations.failed(taken, error))
        failed, era = taken.mark, taken.mark.get("era")
        if state is MigrationState.APPLIED:
            told = self._migrations.spare(taken.assignment, era)
            self._history.tell(MigrationState.FAILED.value, {**failed.source, **told})
            pending = {"state": OperationState.PENDING.value}
            replace(self._client, failed, {**operations.NOTHING, **pending})
            return
        told = self._migrations.end(taken.assignment, era, state, error)
        self._history.tell(state.value, {**failed.source, **told})

    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error or an orderly stop, and take the attempt back."""
        self._write(taken, {"error": error, "attempts": max(taken.attempts - 1, 0)})

    def audit(self, entry: Entry) -> None:
        """Add an entry to the history; its id is made from what it says."""
        self._history.audit(entry)

    # --- the parts of `take` ---

    def _operation(self, version: str, number: int) -> Document | None:
        return read(self._client, self._names.operations, operations.name(version, number))

    def _check_head(self, assignment: Assignment) -> None:
        head = read(self._client, self._names.head, _HEAD)
        found, run = (0, None) if head is None else (int(head.get("generation")), head.get("run"))
        if head is not None:
            confirm_schema("elasticsearch", head.get("schema_version"))
        if (found, run) != (assignment.generation, assignment.run):
            wanted = f"{assignment.generation} of run {assignment.run}"
            message = f"the journal is at generation {found} of run {run}, not {wanted}"
            raise Outdated(message)

    def _check_neighbour(self, assignment: Assignment, era: int) -> None:
        """Refuse to begin before the operation before this one, in our direction, is over."""
        version, number = assignment.key.version, assignment.key.number
        wanted, what = OperationState.DONE, "done"
        number -= 1
        if assignment.back:
            wanted, what = OperationState.PENDING, "undone"
            number += 2
        if number == 0:
            return
        found = self._operation(version, number)
        if operations.state_of(found, era) is not wanted:
            message = f"operation {number} of {version} is not {what} yet"
            raise Outdated(message)
        if found is not None and found.get("era") == era:
            # Lost, where its worker died right after its last step.
            self._history.tell(what, found.source)

    def _seize(
        self,
        assignment: Assignment,
        owner: Owner,
        era: int,
        *,
        counted: bool,
        error: str | None,
    ) -> Taken:
        key = assignment.key
        while True:  # each turn means that somebody else's write succeeded
            found = self._operation(key.version, key.number)
            former = operations.owner_of(found)
            if operations.is_over(found, assignment, era):
                return operations.taken(assignment, found, era, former)
            source = operations.seized(found, assignment, owner, era, counted=counted)
            source["error"] = error
            if found is None:
                name = operations.name(key.version, key.number)
                made = create(self._client, self._names.operations, name, source)
                if made:
                    return operations.taken(assignment, made, era)
            elif replace(self._client, found, source):
                return operations.taken(assignment, found, era, former)

    # --- the end of an operation ---

    def _conclude(self, taken: Taken, era: int) -> None:
        """After an operation is over: bring the migration to its outcome, tell. Repeatable."""
        assignment = taken.assignment
        key, outcome = assignment.key, assignment.outcome
        told: JSON = {}
        if assignment.last:
            told = self._migrations.end(assignment, era, outcome)
        if taken.mark is not None:
            source = taken.mark.source
            self._history.tell("undone" if assignment.back else "done", source)
        elif outcome is MigrationState.FAILED:
            return  # it was never begun, and so the migration had failed before
        else:
            source = {"run": assignment.run, "by": assignment.by, "version": key.version}
        if assignment.last:
            self._history.tell(outcome.value, {**source, **told})

    # --- writing ---

    def _write(self, taken: Taken, changes: JSON) -> None:
        """Write the operation's document, if ours was the last write and did not end it."""
        ours = operations.owner_of(taken.mark) is not None
        if not (ours and replace(self._client, taken.mark, {**changes, "updated": now()})):
            message = f"{taken.assignment.key} was taken over (our fence was {taken.fence})"
            raise FenceLost(message)


def _other_run(found: int, wanted: int) -> str:
    return f"the journal is at generation {found}, not {wanted}: another run has begun"


def _head(source: JSON) -> Head:
    return Head.model_validate({name: source.get(name) for name in Head.model_fields})
