"""What the three kinds are: the text of a .sql file, which only another file can undo."""

from __future__ import annotations

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import Problem
from dharma_tasks.operations.base import Burden, Filling, Index, Operation
from dharma_tasks.operations.postgresql import running
from dharma_tasks.operations.postgresql.burden import burden
from dharma_tasks.operations.postgresql.order import order
from dharma_tasks.records import Direction
from dharma_tasks.work import Step, Work


class SqlFile(Operation[Session]):
    """A .sql file. Its rollback file is one too, and is carried out in the same ways."""

    sql: str
    """The file's text."""

    @property
    def summary(self) -> str:
        """The first words of the file."""
        return running.summary(self.sql)

    def irreversible(self) -> Problem | None:
        """No SQL says how it is undone; a file without any has nothing to undo."""
        if running.only_comments(self.sql):
            return None
        what = "an SQL file cannot be undone without its rollback file"
        todo = "Write NNN_name_rollback.json and NNN_name_rollback.sql beside it."
        return Problem("", "", what, todo)

    def burden(self, direction: Direction) -> Burden:
        """The locks that its statements take, and the tables that they go through."""
        if direction is Direction.BACK:
            return Burden()  # where it can be undone, there is nothing in it
        return burden(running.checked(self.sql)[0])

    def order(self) -> list[Index | Filling]:
        """What its statements build and fill."""
        return order(running.checked(self.sql)[0])

    def undo(self, work: Work[Session]) -> Step:  # noqa: ARG002
        """Do nothing: only a file without any statement is undone by itself."""
        return Step(cursor=None, finished=True)
