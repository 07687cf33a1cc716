"""`sql_statements`: a file with `"transactional": false`, one statement after the other."""

from __future__ import annotations

from typing import Any, ClassVar

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import Problem
from dharma_tasks.operations.postgresql import indexes, kinds, rules, running
from dharma_tasks.operations.postgresql.parsing import NotSql
from dharma_tasks.operations.postgresql.parts import Part, split, without_effect
from dharma_tasks.operations.postgresql.sql_file import SqlFile
from dharma_tasks.work import Step, Work


class SqlStatements(SqlFile):
    """Statements that run one by one, each exactly once.

    What can be in a transaction is, with its checkpoint. Of the others, CREATE and DROP INDEX
    CONCURRENTLY take two steps: the first records what is there, the second acts on that.
    The cursor is the number of the next part, or `{"at": number, "found": …}` between the two.
    """

    kind: ClassVar[str] = kinds.SQL_STATEMENTS

    def problems(self) -> list[Problem]:
        """Syntax, and what cannot be taken up again; lines are the .sql file's."""
        try:
            return list(split(self.sql)[1])
        except NotSql as error:
            return [error.problem]

    def warnings(self) -> list[Problem]:
        """Say what does nothing."""
        if self.problems():
            return []
        todo = "Write SET, or put it into a BEGIN … COMMIT block."
        what = "it has no effect outside of a block: each statement is a transaction"
        idle = [
            rules.problem(part.statements[0], what, todo)
            for part in split(self.sql)[0]
            if len(part.statements) == 1 and not part.modes and _alone(self.sql, part)
        ]
        return running.only_comments(self.sql) + idle

    def transactional(self, cursor: Any) -> bool:
        """Everything is, but the act of a statement that refuses it."""
        parts, _ = split(self.sql)
        at, found = _position(cursor)
        if not parts or not parts[at].outside:
            return True
        return indexes.recorded(parts[at].statements[0]) and found is None

    def step(self, work: Work[Session]) -> Step:
        """Run the next part."""
        parts, _ = split(self.sql)
        if not parts:
            work.warn("the .sql file holds no statement; it is applied as it is")
            return Step(cursor=None, done=1, finished=True, total=1)
        at, found = _position(work.cursor)
        self._replay(work, parts[:at])
        part = parts[at]
        if part.outside:
            statement = part.statements[0]
            if indexes.recorded(statement) and found is None:
                return Step(cursor={"at": at, "found": indexes.look(work, statement)})
            indexes.act(work, self.sql, statement, found)
        else:
            if part.modes:
                running.set_transaction(work, part.modes)
            running.run(work, self.sql, part.start, part.end)
        finished = at + 1 == len(parts)
        return Step(cursor=at + 1, done=1, finished=finished, total=len(parts))

    def _replay(self, work: Work[Session], before: tuple[Part, ...]) -> None:
        """In a new session, set what the file has set so far (FAULTS 15)."""
        settings = [setting for part in before for setting in part.settings]
        if settings and work.handle.fresh:
            work.handle.replay(settings)


def _position(cursor: Any) -> tuple[int, Any]:
    if isinstance(cursor, dict):
        return cursor["at"], cursor["found"]
    return cursor or 0, None


def _alone(sql: str, part: Part) -> bool:
    """Whether the part is its one statement, and not a block around it."""
    statement = part.statements[0]
    return sql[part.start : part.end] == statement.text and without_effect(statement)
