"""`dharma repair`: one migration, of which a person says what is true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dharma_tasks.declaring.case import Case
from dharma_tasks.declaring.proposal import (
    Change,
    Proposal,
    begun,
    differing,
    listed,
    named_version,
    types_of,
    unmet,
)
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import suggestion
from dharma_tasks.journal import Amendment
from dharma_tasks.migration import Migration, Reference, reference
from dharma_tasks.planner import half_undone
from dharma_tasks.records import GONE, MigrationRecord, MigrationState, OperationState, Survey

__all__ = ["Action", "Repair"]

_OPEN = (OperationState.RUNNING, OperationState.FAILED, OperationState.UNDOING)


class Action(StrEnum):
    """What is declared; the word in the history."""

    RETRY = "retry"
    MARK_APPLIED = "mark_applied"
    MARK_ROLLED_BACK = "mark_rolled_back"
    ACCEPT_CHECKSUM = "accept_checksum"


@dataclass(frozen=True)
class Repair:
    """One migration, and what is declared of it."""

    database: str
    version: str
    action: Action

    @property
    def question(self) -> str:
        """What is asked before anything is written."""
        return f"Write this to the journal of {self.database}? Nothing is carried out."

    @property
    def _reference(self) -> Reference:
        return reference(self.database, str(named_version(self.version)))

    def databases(self, migrations: Sequence[Migration]) -> list[str]:  # noqa: ARG002
        """The one."""
        return [self.database]

    def surveyed(self, migrations: Sequence[Migration]) -> set[str]:
        """The one, and those of what it stands on, or of what stands on it."""
        mine = self._reference
        if self.action is Action.MARK_ROLLED_BACK:
            others = {m.database for m in migrations if mine in m.dependencies}
        else:
            needs = {need for m in migrations if m.reference == mine for need in m.dependencies}
            others = {need.partition(":")[0] for need in needs}
        return {self.database, *others}

    def decide(self, migrations: Sequence[Migration], surveys: Mapping[str, Survey]) -> Proposal:
        """Say what becomes of it, unless something contradicts that."""
        case = Case(self.database, str(named_version(self.version)), surveys, migrations)
        if case.file is None and case.record is None:
            known = {m.version for m in migrations if m.database == self.database}
            todo = suggestion(self.version, known | {*case.survey.by_version()}, "versions")
            raise case.refused("is neither in the folder nor in the journal", todo)
        match self.action:
            case Action.RETRY:
                return _retry(case)
            case Action.MARK_APPLIED:
                return _mark_applied(case)
            case Action.MARK_ROLLED_BACK:
                return _mark_rolled_back(case)
            case Action.ACCEPT_CHECKSUM:
                return _accept_checksum(case)


def _retry(case: Case) -> Proposal:
    """Its failure is forgotten, and it goes on from its checkpoint."""
    file, record = case.file, case.record
    if record is None or case.state in (*GONE, MigrationState.APPLIED):
        raise case.refused(f"is {case.state}: there is nothing to retry")
    if file is None:
        raise case.refused("has no file in the folder")
    notes = [f"forgotten: {record.error.strip()}"] if record.error else []
    notes += [
        f"operation {each.number} {each.type} goes on from its checkpoint"
        for each in record.operations
        if each.state in _OPEN
    ]
    warnings = []
    if case.changed:
        accept = case.command("--accept-checksum")
        warnings.append(f"its file was changed since: put it back, or accept it: {accept}")
    back = half_undone(record, file)
    return _proposal(
        case,
        Action.RETRY,
        _amendment(
            case,
            MigrationState.ROLLING_BACK if back else MigrationState.RUNNING,
            stamp=record.checksum,
        ),
        reason=f"it was {case.state}",
        notes=notes,
        warnings=warnings,
        todo=f"{case.rollback if back else 'dharma submit'} goes on with it.",
    )


def _mark_applied(case: Case) -> Proposal:
    """All of it is there, by a person's word."""
    file, record = case.file, case.record
    if case.state is MigrationState.APPLIED:
        raise case.refused("is applied already")
    if file is None:
        raise case.refused("has no file in the folder")
    way_out = "Apply that one, or mark it as applied, first."
    if problems := list(unmet([file], case.surveys, way_out)):
        raise Refused(problems)
    known = record.operations if record and case.state not in GONE else []
    done = {each.number for each in known if each.state is OperationState.DONE}
    types = list(enumerate(types_of(file), start=1))
    return _proposal(
        case,
        Action.MARK_APPLIED,
        _amendment(case, MigrationState.APPLIED, stamp=_stamp(file, record if done else None)),
        reason=f"declared applied by dharma repair, not carried out (it was {case.state})",
        notes=[
            *_noted("done:", [each for each in types if each[0] in done]),
            *_noted(
                "on your word, and dharma cannot undo it:",
                [each for each in types if each[0] not in done],
            ),
            *_noted(
                "forgotten, of its rollback file:",
                [each for each in begun(record).items() if each[0] > len(types)],
            ),
        ],
        warnings=[*_there(case), *_at_work(case)],
        todo="dharma submit runs what is next.",
    )


def _there(case: Case) -> Iterator[str]:
    if case.state is MigrationState.PENDING:
        many = f"dharma baseline {case.version}"
        yield f"it has never begun: {many} takes over everything up to it"
    if case.state in GONE and (late := case.skipped()):
        yield f"{', '.join(late)} below it then take submit --allow-out-of-order"


def _mark_rolled_back(case: Case) -> Proposal:
    """Nothing of it is there, by a person's word."""
    record = case.record
    if record is None or case.state in GONE:
        raise case.refused(f"is {case.state}: nothing of it is there")
    problems = [
        Problem(
            migration.file,
            "dependencies",
            f"{migration.reference} is {state} and needs {case.reference}",
            "Undo that one first, or declare it gone: "
            f"dharma repair {migration.database} {migration.version} --mark-rolled-back",
        )
        for migration, state in case.dependents()
    ]
    if problems:
        raise Refused(problems)
    what = "forgotten, with what they kept for their way back:"
    return _proposal(
        case,
        Action.MARK_ROLLED_BACK,
        _amendment(case, MigrationState.ROLLED_BACK, stamp=record.checksum),
        reason=f"declared gone by dharma repair (it was {case.state})",
        notes=_noted(what, sorted(begun(record).items())),
        warnings=[*_gone(case), *_at_work(case)],
        todo="dharma submit begins it anew." if case.file else "It has no file: nothing runs it.",
    )


def _at_work(case: Case) -> Iterator[str]:
    """What nobody has ended in order may go on in the server, and nobody will know of it."""
    if case.record is None:
        return
    for each in case.record.operations:
        if each.state in (OperationState.RUNNING, OperationState.UNDOING):
            first = case.rollback if half_undone(case.record, case.file) else "submit"
            yield (
                f"operation {each.number}, {each.type}, was at work: what it has going on the "
                "server, and settings that it changed for that, are forgotten too. Where it was "
                f"not halted, let a live worker do that first: {first}, then dharma cancel --keep"
            )


def _gone(case: Case) -> Iterator[str]:
    if case.state is MigrationState.APPLIED:
        more = ", and what is above it" if case.above() else ""
        yield f"nothing is undone by this; {case.rollback} would undo it{more}"
    if case.file and (above := case.above()):
        yield f"{above[-1]} is above it: to run it again takes submit --allow-out-of-order"


def _accept_checksum(case: Case) -> Proposal:
    """Its file was changed, and that is right."""
    file, record = case.file, case.record
    if record is None or case.state in GONE:
        raise case.refused(f"is {case.state}: its file may change freely")
    if file is None:
        raise case.refused("has no file in the folder")
    if not case.changed:
        raise case.refused("has the file that the journal knows", "There is nothing to accept.")
    applied = case.state is MigrationState.APPLIED
    different = differing(record, file)
    wrong = [text for number, text in different.items() if number in begun(record)]
    if wrong and not applied:
        what = f"{file.version} is {case.state}, and has begun with others: {'; '.join(wrong)}"
        todo = "Put those back in their places: what has begun cannot go on as something else."
        raise Refused([Problem(file.file, "operations", what, todo)])
    then, now = record.checksum[:12], file.checksum[:12]
    back = not applied and half_undone(record, file)
    return _proposal(
        case,
        Action.ACCEPT_CHECKSUM,
        # One that has other operations by now needs a record for each of them.
        _amendment(
            case,
            MigrationState.APPLIED if applied and different else None,
            stamp=_stamp(file, record),
        ),
        reason=f"changed file accepted by dharma repair: checksum {then}, now {now}",
        notes=[f"checksum {then}, from now on {now}", *(different.values() if applied else ())],
        warnings=list(_accepted(wrong)) if applied else [],
        todo=f"{case.rollback if back else 'dharma submit'} goes on.",
    )


def _accepted(wrong: Sequence[str]) -> Iterator[str]:
    yield "a rollback undoes what the file says now"
    if wrong:
        yield "what was carried out as another type, or is not in the file, cannot be undone"


# -- what they share -----------------------------------------------------------------------


def _amendment(case: Case, state: MigrationState | None, *, stamp: str) -> Amendment:
    named = case.file or case.record
    return Amendment(
        version=case.version,
        name=named.name if named else "",
        checksum=stamp,
        types=types_of(case.file) if case.file else tuple(begun(case.record).values()),
        state=state,
    )


def _stamp(file: Migration, begun_with: MigrationRecord | None) -> str:
    """The file as it is now, and the values that what is left of it was carried out with."""
    values = begun_with.values if begun_with else ""
    return file.model_copy(update={"values": values}).stamp


def _proposal(  # noqa: PLR0913 - the parts of a proposal
    case: Case,
    action: Action,
    amendment: Amendment,
    *,
    reason: str,
    notes: Sequence[str],
    warnings: Sequence[str],
    todo: str,
) -> Proposal:
    return Proposal(
        event=action,
        reason=reason,
        changes={case.database: (Change(amendment, case.state, tuple(notes)),)},
        heads={case.database: case.survey.head},
        warnings=tuple(warnings),
        todo=todo,
    )


def _noted(what: str, operations: Sequence[tuple[int, str]]) -> list[str]:
    return [f"{what} {listed(operations)}"] if operations else []
