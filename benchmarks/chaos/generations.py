"""What the workers work on: one generation of data and files after the other.

Each has its own tables, collections and indices, so that every effect can be counted in the
end: a row that is too low has lost one, a row that is too high got one twice. Rolled back,
all of it must be as it was before.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple

from bson import ObjectId
from elasticsearch.helpers import bulk, scan

from benchmarks.chaos.batches import PARALLEL
from benchmarks.chaos.ground import Document, Ground

_PORTION = 5_000


@dataclass
class Difference:
    """How the data differs from what it must be. All of it must be zero and empty."""

    lost: int = 0
    doubled: int = 0
    other: list[str] = field(default_factory=list)

    def __add__(self, more: Difference) -> Difference:
        return Difference(
            self.lost + more.lost, self.doubled + more.doubled, [*self.other, *more.other]
        )

    def effects(self, what: str, found: int, expected: int) -> None:
        """Count what is missing or too much of one effect on one document."""
        self.lost += max(0, expected - found)
        self.doubled += max(0, found - expected)
        if found != expected and len(self.other) < 20:
            self.other.append(f"{what}: {found}, not {expected}")

    def check(self, what: str, found: object, expected: object) -> None:
        """Note that something is not as it must be."""
        if found != expected:
            self.other.append(f"{what}: {found!r}, not {expected!r}")

    @property
    def empty(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.doubled or self.other)


@dataclass(frozen=True)
class File:
    """One migration: what its JSON has besides the usual, its SQL, and that of the way back."""

    name: str
    definition: Document
    sql: str = ""
    back: str = ""


class Operations(NamedTuple):
    """How many operations a migration has, and its rollback file."""

    forward: int
    back: int


class Part(ABC):
    """One database's part of a generation."""

    database: str

    def __init__(self, ground: Ground, number: int, scale: float) -> None:
        """`number` is the generation's; `scale` makes the work longer or shorter."""
        self.ground = ground
        self.number = number
        self.scale = scale

    def version(self, position: int) -> str:
        """The version of the file at `position`, from 0."""
        return f"{self.number}.{position}.0"

    def needs(self, *others: str) -> Document:
        """Dependencies on migrations of this generation: `mongodb:0` is its first one."""
        named = (other.split(":") for other in others)
        found = [f"{database}:{self.version(int(position))}" for database, position in named]
        return {"dependencies": found}

    def write(self) -> dict[str, Operations]:
        """Write the files. Returns the numbers of operations by version."""
        folder = self.ground.migrations / self.database
        folder.mkdir(exist_ok=True)
        written = {}
        for position, file in enumerate(self.files()):
            stem = f"{self.number * 100 + position:05}_{file.name}"
            common = {
                "version": self.version(position),
                "name": file.name,
                "description": f"part of generation {self.number}",
                "database_type": self.database,
                "migration_type": "data",
            }
            if file.sql:
                (folder / f"{stem}.sql").write_text(file.sql)
            definition = {**common, **file.definition}
            (folder / f"{stem}.json").write_text(json.dumps(definition))
            if file.back:
                (folder / f"{stem}_rollback.sql").write_text(file.back)
                definition.pop("dependencies", None)
                (folder / f"{stem}_rollback.json").write_text(json.dumps(definition))
            operations = len(file.definition.get("operations", [0]))
            written[self.version(position)] = Operations(operations, int(bool(file.back)))
        return written

    @abstractmethod
    def seed(self) -> None:
        """Make the data."""

    @abstractmethod
    def files(self) -> Iterable[File]:
        """The migrations, in order."""

    @abstractmethod
    def compare(self, times: int) -> Difference:
        """Compare every document with what it must be: each effect there once, or not at all."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the data."""


class MongodbPart(Part):
    """`$inc` and `$push` over `_id`s of mixed types, a slow update, a field, an index.

    The first and the field are cut into ranges.
    """

    database = "mongodb"
    # A millisecond for each document, without using the processor.
    _slow: ClassVar[Document] = {
        "$expr": {
            "$function": {"body": "function() { sleep(1); return true; }", "args": [], "lang": "js"}
        }
    }

    @property
    def _mixed(self) -> str:
        return f"mixed_{self.number}"

    @property
    def _plain(self) -> str:
        return f"plain_{self.number}"

    @property
    def _counts(self) -> tuple[int, int]:
        return int(40_000 * self.scale), int(5_000 * self.scale)

    def seed(self) -> None:
        """Ids of three types in one collection, integers in the other."""
        database = self.ground.mongodb.get_default_database()
        mixed, plain = self._counts
        kinds = (lambda n: n, lambda n: f"id-{n}", lambda _n: ObjectId())
        ids: dict[str, Iterable[Any]] = {
            self._mixed: [kinds[n % 3](n) for n in range(mixed)],
            self._plain: range(plain),
        }
        for name, keys in ids.items():
            documents: list[Document] = [
                {"_id": key, "n": 0, "k": i % 97, "log": []} for i, key in enumerate(keys)
            ]
            for start in range(0, len(documents), _PORTION):
                database[name].insert_many(documents[start : start + _PORTION])

    def files(self) -> Iterable[File]:
        """Four files with six operations."""
        yield File("count", {"operations": [self._once(self._mixed, "a", parallel=PARALLEL)]})
        yield File("slowly", {"operations": [self._once(self._plain, "a", self._slow)]})
        field_ = {
            "type": "add_field",
            "collection": self._mixed,
            "field": "new",
            "value": {"x": 1},
            "parallel": PARALLEL,
        }
        keys = [["k", 1], ["n", 1]]
        index = {"type": "create_index", "collection": self._mixed, "index": keys}
        named = {**index, "options": {"name": "by_k"}}
        yield File("fields", {"operations": [field_, named, self._once(self._mixed, "b")]})
        last = [self._once(self._plain, "b", self._slow)]
        yield File("last", {"operations": last, **self.needs("postgresql:0")})

    @staticmethod
    def _once(collection: str, word: str, where: Document | None = None, **more: Any) -> Document:
        return {
            **more,
            "type": "update_documents",
            "collection": collection,
            "filter": where or {},
            "update": {"$inc": {"n": 1}, "$push": {"log": word}},
            "keep_before_image": True,
        }

    def compare(self, times: int) -> Difference:
        """Each document has counted and noted each update once."""
        database = self.ground.mongodb.get_default_database()
        found = Difference()
        for name, count in zip((self._mixed, self._plain), self._counts, strict=True):
            seen = 0
            for each in database[name].find():
                seen += 1
                what = f"mongodb {name} {each['_id']!r}"
                found.effects(f"{what} n", each["n"], 2 * times)
                for word in ("a", "b"):
                    found.effects(f"{what} log {word}", each["log"].count(word), times)
                if name == self._mixed:
                    new = 2 * ("new" in each) - (each.get("new") == {"x": 1})
                    found.effects(f"{what} new", new, times)
            found.effects(f"mongodb documents of {name}", seen, count)
        names = sorted(database[self._mixed].index_information())
        found.check(f"mongodb indexes of {self._mixed}", names, ["_id_", "by_k"][: 1 + times])
        return found

    def drop(self) -> None:
        """Both collections."""
        for name in (self._mixed, self._plain):
            self.ground.mongodb.get_default_database().drop_collection(name)


class PostgresqlPart(Part):
    """A batched `n = n + 1`, plain SQL, statements one by one with an index between them.

    The second time it is batched, it is cut into ranges.
    """

    database = "postgresql"
    _size = 200
    _steps = 3

    @property
    def _rows(self) -> int:
        return int(10_000 * self.scale)

    def _name(self, table: str) -> str:
        return f"{table}_{self.number}"

    def seed(self) -> None:
        """Three tables to count in, and one for what was told."""
        with self.ground.postgresql() as connection:
            for name in ("batched", "whole", "steps"):
                table = self._name(name)
                connection.execute(
                    f"CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
                )
                connection.execute(
                    f"INSERT INTO {table} SELECT i, 0 FROM generate_series(1, {self._rows}) i"
                )
            connection.execute(f"CREATE TABLE {self._name('told')} (what text)")

    def files(self) -> Iterable[File]:
        """Four files."""
        yield self._batch("batched")
        whole, told, steps = (self._name(each) for each in ("whole", "told", "steps"))
        yield File(
            "whole",
            {},
            f"UPDATE {whole} SET n = n + 1;\nSELECT pg_sleep(1);\n"
            f"INSERT INTO {told} VALUES ('whole');\n",
            f"DELETE FROM {told} WHERE what = 'whole';\nSELECT pg_sleep(1);\n"
            f"UPDATE {whole} SET n = n - 1;\n",
        )
        slowly, back = (
            f"UPDATE {steps} SET n = n {sign} 1 FROM (SELECT pg_sleep(0.3)) AS slow;\n"
            for sign in "+-"
        )
        yield File(
            "steps",
            {"transactional": False},
            f"SET lock_timeout = '7s';\n{slowly}"
            f"CREATE INDEX CONCURRENTLY {steps}_n ON {steps} (n);\n"
            f"{slowly}VACUUM {steps};\n"
            f"BEGIN;\n{slowly}INSERT INTO {told} VALUES ('steps');\nCOMMIT;\n",
            f"BEGIN;\n{back}DELETE FROM {told} WHERE what = 'steps';\nCOMMIT;\n{back}"
            f"DROP INDEX CONCURRENTLY {steps}_n;\n{back}",
        )
        yield self._batch("again", PARALLEL, **self.needs("elasticsearch:0", "mongodb:0"))

    def _batch(self, name: str, parallel: int = 1, **more: Any) -> File:
        table = self._name("batched")
        batch = {"table": table, "key": "id", "size": self._size, "parallel": parallel}
        forward, back = (
            f"UPDATE {table} SET n = n {sign} 1 FROM (SELECT pg_sleep(0.1)) AS slow\n"
            "WHERE id BETWEEN :batch_start AND :batch_end\n"
            for sign in "+-"
        )
        return File(name, {"batch": batch, **more}, forward, back)

    def compare(self, times: int) -> Difference:
        """Each row is as much higher as there were updates."""
        found = Difference()
        expected = {"batched": 2, "whole": 1, "steps": self._steps}
        with self.ground.postgresql() as connection:
            for name, n in expected.items():
                table = self._name(name)
                rows = connection.execute(f"SELECT id, n FROM {table}").fetchall()
                for key, value in rows:
                    found.effects(f"postgresql {table} {key}", value, n * times)
                found.effects(f"postgresql rows of {table}", len(rows), self._rows)
            told = connection.execute(f"SELECT what FROM {self._name('told')}").fetchall()
            for what in ("whole", "steps"):
                found.effects(f"postgresql told {what}", told.count((what,)), times)
            indexes = connection.execute(
                "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c"
                " ON c.oid = i.indexrelid WHERE i.indrelid = %s::regclass AND NOT i.indisprimary",
                [self._name("steps")],
            ).fetchall()
        found.check("postgresql indexes", indexes, [(f"{self._name('steps')}_n", True)] * times)
        return found

    def drop(self) -> None:
        """All of it."""
        with self.ground.postgresql(timeout=10) as connection:
            for name in ("batched", "whole", "steps", "told"):
                connection.execute(f"DROP TABLE IF EXISTS {self._name(name)}")


class ElasticsearchPart(Part):
    """Three copies, one of the other, and an alias that moves along."""

    database = "elasticsearch"
    _copies = 3
    _settings: ClassVar[Document] = {"number_of_shards": 2, "number_of_replicas": 0}

    @property
    def _count(self) -> int:
        return int(30_000 * self.scale)

    def _index(self, copy: int) -> str:
        return f"{self.ground.namespace}_{self.number}_v{copy}"

    @property
    def _alias(self) -> str:
        return f"{self.ground.namespace}_{self.number}"

    @property
    def _mapping(self) -> Document:
        return {"properties": {"n": {"type": "long"}, "text": {"type": "keyword"}}}

    @staticmethod
    def _document(number: int) -> Document:
        return {"n": number, "text": f"the text of document {number}"}

    def seed(self) -> None:
        """The index that is copied."""
        client, index = self.ground.elasticsearch, self._index(0)
        client.indices.create(index=index, mappings=self._mapping, settings=self._settings)
        actions: Iterator[Document] = (
            {"_index": index, "_id": str(n), "_source": self._document(n)}
            for n in range(self._count)
        )
        patient = client.options(request_timeout=60)
        bulk(patient, actions, chunk_size=_PORTION, refresh=True)

    def files(self) -> Iterable[File]:
        """A file for each copy, with three operations."""
        for copy in range(1, self._copies + 1):
            index = self._index(copy)
            made = {"mapping": self._mapping, "settings": self._settings}
            operations = [
                {"type": "create_index", "index": index, **made},
                {"type": "reindex", "source": self._index(copy - 1), "dest": index},
                {"type": "create_alias", "index": index, "alias": self._alias, "exclusive": True},
            ]
            needs = self.needs("mongodb:0") if copy == self._copies else {}
            yield File(f"copy{copy}", {"operations": operations, **needs})

    def compare(self, times: int) -> Difference:
        """Each copy has each document once, and nothing else; the alias names the last one."""
        found = Difference()
        client = self.ground.elasticsearch
        client.indices.refresh(index=self._index(0))
        there = client.count(index=self._index(0))["count"]
        found.effects(f"elasticsearch documents of {self._index(0)}", there, self._count)
        holders = self._holders()
        if not times:
            names = sorted(client.indices.get(index=f"{self._alias}_v*"))
            found.check("elasticsearch indices", names, [self._index(0)])
            found.check("elasticsearch alias", holders, [])
            return found
        for copy in range(1, self._copies + 1):
            index = self._index(copy)
            if not client.indices.exists(index=index):
                found.effects(f"elasticsearch documents of {index}", 0, self._count)
                continue
            client.indices.refresh(index=index)
            seen: dict[str, Document | None] = {}
            for each in scan(client, index=index, size=_PORTION, query={"version": True}):
                seen[each["_id"]] = each
            for number in range(self._count):
                hit: Document | None = seen.pop(str(number), None)
                right = hit is not None and hit["_source"] == self._document(number)
                writes = hit["_version"] if right and hit is not None else 0
                found.effects(f"elasticsearch {index} {number}", writes, 1)
            found.effects(f"elasticsearch documents of {index} that nobody wrote", len(seen), 0)
            settings = client.indices.get_settings(index=index)[index]["settings"]["index"]
            refresh = settings.get("refresh_interval")
            found.check(f"elasticsearch refresh_interval of {index}", refresh, None)
        found.check("elasticsearch alias", holders, [self._index(self._copies)])
        return found

    def _holders(self) -> list[str]:
        client = self.ground.elasticsearch.options(ignore_status=404)
        aliases = client.indices.get_alias(name=self._alias)
        return sorted(aliases) if aliases.meta.status == HTTPStatus.OK else []

    def drop(self) -> None:
        """Every copy."""
        names = [self._index(copy) for copy in range(self._copies + 1)]
        self.ground.elasticsearch.indices.delete(index=names, ignore_unavailable=True)


class Generation:
    """One set of migrations over the three databases."""

    def __init__(self, ground: Ground, number: int, scale: float) -> None:
        """Nothing is made yet."""
        self.number = number
        kinds: tuple[type[Part], ...] = (MongodbPart, PostgresqlPart, ElasticsearchPart)
        self.parts = [kind(ground, number, scale) for kind in kinds]
        self.versions: dict[str, dict[str, Operations]] = {}
        self.applied = True
        """Which way it was brought last."""

    def make(self) -> None:
        """Make the data, then the files."""
        for part in self.parts:
            part.seed()
        self.versions = {part.database: part.write() for part in self.parts}

    @property
    def below(self) -> str:
        """A version below all of its own, and above those of the generations before."""
        return f"{self.number - 1}.999.0"

    def goals(self, database: str) -> dict[tuple[str, int], str]:
        """The states of all operations when it is wholly applied, or rolled back.

        Where a rollback file was carried out, its operations are done.
        """
        found = {}
        for version, operations in self.versions[database].items():
            if self.applied or not operations.back:
                state = "done" if self.applied else "pending"
                numbers = range(1, operations.forward + 1)
            else:
                state = "done"
                numbers = range(operations.forward + 1, sum(operations) + 1)
            found.update({(version, number): state for number in numbers})
        return found

    def compare(self) -> Difference:
        """Compare all of it."""
        found = Difference()
        for part in self.parts:
            found += part.compare(times=int(self.applied))
        return found

    def drop(self) -> None:
        """Remove the data; the files stay, as those of applied migrations must."""
        for part in self.parts:
            part.drop()
