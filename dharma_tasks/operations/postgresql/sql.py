"""`sql`: the whole file in one transaction with its journal write."""

from __future__ import annotations

from typing import ClassVar

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import Problem
from dharma_tasks.operations.postgresql import kinds, rules, running
from dharma_tasks.operations.postgresql.sql_file import SqlFile
from dharma_tasks.work import Step, Work


class Sql(SqlFile):
    """A .sql file as it is. It is applied whole or not at all, and exactly once (Law 3)."""

    kind: ClassVar[str] = kinds.SQL

    def problems(self) -> list[Problem]:
        """Syntax, and statements that cannot be in a transaction; lines are the .sql file's."""
        statements, problems = running.checked(self.sql)
        for statement in statements:
            problems += rules.never(statement)
            problems += rules.needs_transaction(statement)
        return problems

    def warnings(self) -> list[Problem]:
        """Say that a file of comments does nothing."""
        return running.only_comments(self.sql)

    def step(self, work: Work[Session]) -> Step:
        """Run the file."""
        if not running.run(work, self.sql, 0, len(self.sql)):
            work.warn("the .sql file holds no statement; it is applied as it is")
        return Step(cursor=None, done=1, finished=True, total=1)
