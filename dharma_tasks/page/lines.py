"""The migrations of each database, as its journal and what was submitted last say together.

Put together only when one of the two is new: of a thousand migrations that takes a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dharma_tasks.migration import Migration, Reference
from dharma_tasks.page.known import Known
from dharma_tasks.page.submissions import Submission
from dharma_tasks.reading import Answers
from dharma_tasks.records import Survey
from dharma_tasks.status import DatabaseStatus, Pulse, assemble

__all__ = ["Lines"]


@dataclass
class Lines:
    """What was put together last, by database, and of what."""

    _of: dict[str, tuple[Survey, Mapping[Reference, Migration], DatabaseStatus]] = field(
        default_factory=dict
    )

    def put_together(
        self, known: Mapping[str, Known], submissions: Mapping[str, Submission]
    ) -> dict[str, DatabaseStatus]:
        """Of each database whose journal was read; what was submitted stands for the folder."""
        return {
            name: self._line(name, each.survey, submissions.get(name))
            for name, each in known.items()
            if each.survey is not None
        }

    def _line(self, name: str, survey: Survey, submission: Submission | None) -> DatabaseStatus:
        submitted = submission.migrations if submission else {}
        before = self._of.get(name)
        if before is not None and before[0] is survey and before[1] == submitted:
            return before[2]
        files = [each for each in submitted.values() if each.database == name]
        answers = Answers({name: survey})
        found = assemble(answers, files, Pulse()).databases[name]
        self._of[name] = survey, submitted, found
        return found
