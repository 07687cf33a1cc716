"""What an operation keeps for its way back: in `{namespace}_undo`, beside the journal's own.

A batch of the way forward keeps at most one thing, in its own transaction: bytes, whose meaning is
the operation's, compressed, encrypted where there is a key for that, and cut into pieces that fit
into a document each. The way back reads them from the newest to the oldest and removes each in the
transaction that has used it up. An `_id` is `{version, number, part, token}`: `part` rises over the
operation, so that a range of `_id`s is an operation's, in order; `token` holds the time, and is
never given twice, so that what one has seen to be of no use can be removed without harm to what was
kept since under the same number. `key` names the key, so that a way back without it does not begin.
The operation's record has the names of all of its keys, for whoever plans: see `explained`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from bson import Binary, MaxKey, MinKey, ObjectId
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from dharma_tasks.databases.mongodb import records
from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.encryption import Cipher, NotOurs
from dharma_tasks.errors import OperationFailed, Unequipped
from dharma_tasks.migration import Key
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import SEALED

PIECE = 12 * 2**20
"""Bytes in one document, which MongoDB limits to 16 MB."""

UNREADABLE = "what it kept for its way back is encrypted with a key that is not here"
GIVE_KEY = "Put that key into DHARMA_ENCRYPTION_KEY, behind the one in use, and start again"

PRUNED = "what it kept for its way back was removed, because it was old (pruned)"

_OTHERS = "other_keys"
_FASTEST = 1
_BY_ID = [("_id", 1)]
_BY_ID_INDEX = "_id_"
_LOWEST: Document = {"number": MinKey()}
_TOP: Document = {"number": MaxKey()}


@dataclass(frozen=True)
class Kept:
    """What one batch has kept."""

    ids: tuple[Document, ...]
    data: bytes

    @property
    def token(self) -> ObjectId:
        """Its own name, never given twice."""
        found: ObjectId = self.ids[0]["token"]
        return found


def keep(handle: Handle, key: Key, run: str, part: int, data: bytes) -> int:
    """Keep `data` as number `part` and on; returns how many documents it took."""
    packed, named = pack(data), {}
    if handle.cipher is not None:
        packed, named = handle.cipher.encrypt(packed), {"key": handle.cipher.names[0]}
    pieces = [packed[at : at + PIECE] for at in range(0, len(packed), PIECE)]
    token = ObjectId()
    for index, piece in enumerate(pieces):
        record = {
            "_id": {**records.name(key), "part": part + index, "token": token},
            "run": run,
            "pieces": len(pieces),
            "data": Binary(piece),
            **named,
        }
        handle.kept.insert_one(record, session=handle.session)
    return len(pieces)


def pack(data: bytes) -> bytes:
    """As it is kept."""
    return zlib.compress(data, _FASTEST)


def newest(handle: Handle, key: Key) -> Kept | None:
    """What was kept last and is not removed yet."""
    for last in handle.kept.find(_of(key), session=handle.session).sort("_id", -1).limit(1):
        first = last["_id"]["part"] - last["pieces"] + 1
        ids = tuple({**last["_id"], "part": first + index} for index in range(last["pieces"]))
        pieces = [last["data"]]
        if len(ids) > 1:
            before = handle.kept.find({"_id": {"$in": ids[:-1]}}, session=handle.session)
            pieces = [*(each["data"] for each in before.sort("_id", 1)), *pieces]
        packed = b"".join(pieces)
        return Kept(ids, zlib.decompress(_decrypted(handle, last.get("key"), packed)))
    return None


def _decrypted(handle: Handle, name: str | None, packed: bytes) -> bytes:
    if name is None:
        return packed
    if handle.cipher is None or name not in handle.cipher.names:
        raise _unequipped()
    try:
        return handle.cipher.decrypt(packed)
    except NotOurs:
        what = "what it kept for its way back was changed since, or is another key's"
        raise OperationFailed(what, GIVE_KEY) from None


def confirm_readable(handle: Handle, key: Key) -> None:
    """Confirm that all that an operation has kept can be read here, before any of it is used.

    Raises:
        Unequipped: a part is encrypted with a key that is not here.
    """
    stages: list[Document] = [{"$match": _of(key)}, {"$group": {"_id": "$key"}}]
    found = handle.kept.aggregate(stages, session=handle.session, hint=_BY_ID_INDEX)
    if not all(_readable(handle.cipher, each["_id"]) for each in found):
        raise _unequipped()


def _unequipped() -> Unequipped:
    return Unequipped(f"{UNREADABLE}. {GIVE_KEY}")


def recorded(handle: Handle) -> Document:
    """What an operation notes that is about to keep something: see `explained`."""
    return {"key": handle.cipher.names[0]} if handle.cipher else {}


def noted(handle: Handle, undo: Document, before: Document, part: int) -> Document:
    """What a batch's cursor says of keys; `before` is the one before it, `part` what is kept now.

    That is nothing as long as it is the key that the operation was begun with.
    """
    kept_now = part > before.get("kept", 0)
    ours = {*handle.cipher.names[:1]} if handle.cipher and kept_now else set()
    return _others([before], ours - {undo.get("key")})


def joined(cursors: Iterable[Document]) -> Document:
    """What all of these say of keys."""
    return _others(cursors, set())


def _others(cursors: Iterable[Document], more: set[str]) -> Document:
    names = more.union(*(each.get(_OTHERS, ()) for each in cursors))
    return {_OTHERS: sorted(names)} if names else {}


def explained(operation: Document, cipher: Cipher | None) -> Document | None:
    """What an operation has found; without its keys sealed and, as far as we see, irreversible.

    One key is in what it has found; others, which it was gone on with, its batches have `noted`.
    """
    undo: Document | None = operation.get("undo")
    cursor = (operation.get("walked") or operation).get("cursor")
    others = cursor.get(_OTHERS, ()) if isinstance(cursor, dict) else ()
    if undo is None or all(_readable(cipher, name) for name in (undo.get("key"), *others)):
        return undo
    return {"irreversible": f"{UNREADABLE}. {GIVE_KEY}"} | undo | {SEALED: UNREADABLE}


def _readable(cipher: Cipher | None, name: str | None) -> bool:
    return name is None or (cipher is not None and name in cipher.names)


def remove(handle: Handle, kept: Kept) -> None:
    """Remove what is used up."""
    handle.kept.delete_many({"_id": {"$in": kept.ids}}, session=handle.session)


def is_any(handle: Handle, key: Key) -> bool:
    """Whether anything that an operation has kept is not removed yet."""
    found = handle.kept.find_one(_of(key), {"_id": True}, hint=_BY_ID, session=handle.session)
    return found is not None


def count(handle: Handle, key: Key) -> int:
    """How many documents an operation has kept."""
    return handle.kept.count_documents(_of(key), hint=_BY_ID, session=handle.session)


def _of(key: Key) -> Document:
    """The `_id`s of an operation's, as a range: asked in any other way, MongoDB reads it all."""
    name = records.name(key)
    return {"_id": {"$gt": {**name, "part": MinKey()}, "$lt": {**name, "part": MaxKey()}}}


# --- removing what is of no use any more ---


def remove_old(kept: Collection[Document], migrations: Collection[Document], version: str) -> None:
    """Remove what a migration that was rolled back has left; nobody will ever undo it.

    Right whenever it happens: the migration was rolled back after these were listed, and what
    is kept later has other `_id`s.
    """
    of_it = {"_id": {"$gt": {"version": version, **_LOWEST}, "$lt": {"version": version, **_TOP}}}
    listed = _listed(kept, of_it)
    rolled_back = {"_id": version, "state": MigrationState.ROLLED_BACK}
    if listed and migrations.find_one(rolled_back, {"_id": True}):
        remove_all(kept, listed)


def old(kept: Collection[Document], before: datetime) -> dict[tuple[str, int], list[Document]]:
    """The `_id`s of what operations keep that kept their last before `before` (with time zone)."""
    below: dict[tuple[str, int], list[Document]] = {}
    for name in _listed(kept, {}):
        below.setdefault((name["version"], name["number"]), []).append(name)
    return {
        of: names
        for of, names in below.items()
        if max(each["token"].generation_time for each in names) < before
    }


def give_up(
    migrations: Collection[Document],
    operations: Collection[Document],
    name: Document,
    session: ClientSession | None,
) -> bool:
    """Mark an operation as irreversible, so that planning refuses a rollback that would meet it.

    Only where its migration is over: one that is at work, or has failed, may need what it keeps.
    Both are written to, so that no rollback begins unseen. Nobody needs what was kept by an
    operation of which nothing is done. Returns whether what it keeps may go.
    """
    found = operations.find_one({"_id": name}, {"state": True}, session=session)
    if found is None or found["state"] == OperationState.PENDING:
        return True
    ended = [MigrationState.APPLIED, MigrationState.ROLLED_BACK]
    over = {"_id": name["version"], "state": {"$in": ended}}
    pruned = {"$set": {"pruned": records.now()}}
    if not migrations.update_one(over, pruned, session=session).matched_count:
        return False
    done = {"_id": name, "state": OperationState.DONE}
    mark = {"$set": {"undo.irreversible": PRUNED}}
    return bool(operations.update_one(done, mark, session=session).matched_count)


def _listed(kept: Collection[Document], matching: Document) -> list[Document]:
    return [each["_id"] for each in kept.find(matching, {"_id": True}, hint=_BY_ID)]


def remove_all(kept: Collection[Document], names: Iterable[Document]) -> None:
    """One document at a time: each may be large."""
    for name in names:
        kept.delete_one({"_id": name})
