"""What every operation promises, and how a database's operations are found.

An operation is one small file with the same few verbs:

- its fields are its parameters; unknown ones are refused;
- `problems`: what the schema cannot say, found before anything runs;
- `prepare`: looks at what is there and returns what to record; changes nothing;
- `step`: does one batch from a cursor, in one of its ranges where `prepare` has cut it into
  some, whose cursors are `joined` into the operation's. It is called again after a crash with the
  last cursor that was committed, so what it did after that must be accepted, not done twice;
- `halt`: ends what it has going on the server without us, where it has any;
- `irreversible`: why it cannot be undone, known before anything runs;
- `burden`: what it means for others, and for how long, known before anything runs;
- `order`: the indexes that it builds and the bulk work that it does, one after the other;
- `bounds`: how large and how frequent its batches may be;
- `undo`: undoes one batch, from a cursor of its own, with the same promise as `step`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.pace import Bounds
from dharma_tasks.records import Direction
from dharma_tasks.strict_json import Path
from dharma_tasks.work import Prepared, Step, Work

HandleT = TypeVar("HandleT")

HIDES_NOTHING = (
    "Only a value that documents are given may be hidden: all else is kept in the journal, shown, "
    "or decides where the operation works. See 'Secrets' in migrations/README.md."
)
"""What to do where a secret stands elsewhere."""


@dataclass(frozen=True)
class Burden:
    """What an operation means for those who use the database, as far as its parameters tell.

    `heavy` is what works through every document or row of something, or builds over it: the more
    there are, the longer it lasts. `targets` are the collections, indices or tables that it goes
    through, empty where nobody can tell, or where the journal knows what is to be undone. With
    `partly` it may have less to do than they hold. With `counted` the journal counts the same
    documents or rows while it runs. `blocking` says, a sentence each, who waits.
    """

    heavy: bool = False
    targets: tuple[str, ...] = ()
    partly: bool = False
    counted: bool = False
    blocking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """An index that an operation builds over `fields` of a collection or table, `of`.

    `name` is how people know it; `place` where it stands, if the operation has several places.
    """

    of: str
    name: str
    fields: tuple[str, ...]
    place: str = ""


@dataclass(frozen=True)
class Filling:
    """Bulk work that writes to the documents or rows of `of`; `name` is how people know it.

    `slowed` says whether it has to keep such an index up to date, and does not itself need it.
    """

    of: str
    name: str
    slowed: Callable[[Index], bool]


class Operation(BaseModel, ABC, Generic[HandleT]):
    """One kind of operation. Subclasses set `kind` and declare their parameters as fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    """The `type` in the migration file, and the end of the Celery task's name."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it works on, in a few words, for logs and progress: `users(email)`."""

    def problems(self) -> list[Problem]:
        """What is wrong with the parameters beyond their types (`file` is left empty)."""
        return []

    def warnings(self) -> list[Problem]:
        """What a user should know although it may run (`file` is left empty)."""
        return []

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002 - a cursor is the operation's own
        """Whether the step at `cursor` runs inside a transaction with its checkpoint."""
        return True

    def prepare(self, work: Work[HandleT]) -> Prepared | None:  # noqa: ARG002
        """Look at what is there, and record it. Changes nothing. By default it does not look.

        Raises:
            OperationFailed: the operation cannot work here (and nothing was changed).
        """
        return None

    @abstractmethod
    def step(self, work: Work[HandleT]) -> Step:
        """Do one batch from `work.cursor` (None at the start).

        Raises:
            OperationFailed: a lasting error; the database's own exceptions pass through.
        """

    def joined(self, cursors: Sequence[Any]) -> JSON:  # noqa: ARG002
        """The cursor of an operation whose ranges are at these: what its `undo` wants to know."""
        return {}

    def halt(self, work: Work[HandleT]) -> None:
        """End what goes on without us on the server, and put back what was changed for its sake.

        The run was paused or cancelled, and a later `step` goes on from the last cursor all the
        same; or the operation is passed over on the way back, for it cannot be undone.
        """

    def irreversible(self) -> Problem | None:
        """Why it can never be undone, and what would help; None where it can (or may) be.

        What only `prepare` can find out goes into `Prepared.undo["irreversible"]`.
        """
        what = f"{self.kind} cannot be undone"
        return Problem("", "", what, "Write a NNN_name_rollback file for it.")

    def burden(self, direction: Direction) -> Burden:  # noqa: ARG002
        """What carrying it out, or undoing it, means for others. Most are over at once."""
        return Burden()

    def order(self) -> list[Index | Filling]:
        """The indexes that it builds and the bulk work that it does, as they follow each other."""
        return []

    @classmethod
    def hides(cls, place: Path) -> str | None:  # noqa: ARG003 - subclasses look at it
        """Why no secret may stand at `place` of the parameters; None where one may.

        It may where only the database gets to see it: not in what a journal keeps, what is shown
        of the operation, or what decides where it works.
        """
        return HIDES_NOTHING

    def undo_needs_secrets(self) -> bool:
        """Whether the way back looks at values that may be secret."""
        return False

    def bounds(self) -> Bounds:
        """What its batches keep to, on both ways; see `paced.py`."""
        return Bounds()

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Whether the `undo` at `cursor` runs inside a transaction with its checkpoint."""
        return True

    def undo(self, work: Work[HandleT]) -> Step:
        """Undo one batch from `work.cursor` (None at the start); `work.walked` is what was done.

        `work.undo` is what `prepare` recorded. It is called only where the operation may have
        changed something, and can be undone. What the application has changed since is left as
        it is, counted and named in a warning.

        Raises:
            OperationFailed: a lasting error; the database's own exceptions pass through.
        """
        raise NotImplementedError(self.kind)


@dataclass(frozen=True)
class Advisor:
    """A program beside ours that looks for dangers in a database's files.

    `missing` says how to get it, None where it is there. `advise` gets the files' operations by
    the files' names, the folder, and rules to leave out; it returns warnings.
    """

    missing: Callable[[], str | None]
    advise: Callable[[Mapping[str, JSON], FilePath, Collection[str]], list[Problem]]


@dataclass(frozen=True)
class Catalogue:
    """The operations of one database, and how its migration files are read.

    `read` turns the parsed JSON, and what the companion holds, into the list of operations: for
    most databases the `operations` of the JSON itself. Where it also returns problems, they are as
    far as they could be read; those with a line are the companion's.
    `keys` are the top-level keys that this database's JSON may have besides the common ones.
    `companion` is the suffix of the file that belongs beside the JSON, if any. `backup` is the
    command with which people usually back this database up. `advisor` looks at companions. `unit`
    is what this database's operations go through, one by one. `described` gives the JSON Schema of
    each of `keys`, for which it gets that of a model; without it they are a list of operations.
    """

    database: str
    operations: Mapping[str, type[Operation[Any]]]
    keys: frozenset[str]
    read: Callable[[JSON, bytes], tuple[list[JSON], list[Problem]]]
    backup: str
    companion: str | None = None
    advisor: Advisor | None = None
    unit: str = "document"
    described: Callable[[Callable[[type[BaseModel]], JSON]], Mapping[str, JSON]] | None = None

    def parse(self, operation: JSON) -> Operation[Any]:
        """Make the operation from its JSON (with `type`).

        Raises:
            KeyError: a type that this version does not know.
            pydantic.ValidationError: parameters that do not fit.
        """
        kind = self.operations[operation["type"]]
        return kind.model_validate({k: v for k, v in operation.items() if k != "type"})
