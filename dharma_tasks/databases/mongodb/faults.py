"""What an exception of the driver means, and how it reads (Law 10).

Codes: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
"""

from __future__ import annotations

from typing import Any

from bson import json_util
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from dharma_tasks.certificates import Trust
from dharma_tasks.databases.base import Fault

_TRUST = Trust(
    setting="DHARMA_MONGODB_URL",
    authority="tlsCAFile=FILE in DHARMA_MONGODB_URL",
    client="tlsCertificateKeyFile=FILE in DHARMA_MONGODB_URL",
)


class StillOpen(PyMongoError):
    """A former owner's session has not ended yet."""


_CONFLICT = {
    112: "WriteConflict",
    251: "NoSuchTransaction",  # ended by the server: too old, or too much for its cache
    257: "TransactionTooLarge",
    290: "TransactionExceededLifetimeLimitSeconds",
    365: "TemporarilyUnavailable",
    388: "TransactionTooLargeForCache",
    # Too long for somebody's time limit:
    50: "MaxTimeMSExpired",
    64: "WriteConcernFailed",  # not on a majority in time
    89: "NetworkTimeout",
    202: "NetworkInterfaceExceededTimeLimit",
    262: "ExceededTimeLimit",
}
"""A smaller batch gets through."""

_PASSING = {
    6: "HostUnreachable",
    7: "HostNotFound",
    24: "LockTimeout",
    43: "CursorNotFound",
    46: "LockBusy",
    63: "StaleShardVersion",
    91: "ShutdownInProgress",
    117: "ConflictingOperationInProgress",
    133: "FailedToSatisfyReadPreference",
    134: "ReadConcernMajorityNotAvailableYet",
    175: "QueryPlanKilled",
    189: "PrimarySteppedDown",
    216: "ElectionInProgress",
    237: "CursorKilled",
    239: "SnapshotTooOld",
    246: "SnapshotUnavailable",
    276: "IndexBuildAborted",
    317: "ConnectionPoolExpired",
    358: "InternalTransactionNotSupported",
    384: "ConnectionError",
    9001: "SocketException",
    10107: "NotWritablePrimary",
    11600: "InterruptedAtShutdown",
    11601: "Interrupted",
    11602: "InterruptedDueToReplStateChange",
    12586: "BackgroundOperationInProgressForDatabase",
    12587: "BackgroundOperationInProgressForNamespace",
    13388: "StaleConfig",
    13435: "NotPrimaryNoSecondaryOk",
    13436: "NotPrimaryOrSecondary",
}

_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")


def classify(error: BaseException) -> Fault:
    """By the server's code, then by the driver's labels; anything else is lasting.

    What took too long is a conflict, for the batch may be too large: but not where no server was
    there at all.
    """
    if isinstance(error, TimeoutError | StillOpen):
        return Fault.PASSING
    if not isinstance(error, PyMongoError):
        return Fault.LASTING
    codes = _codes(error)
    nobody = isinstance(error, ServerSelectionTimeoutError)
    if codes & _CONFLICT.keys() or (error.timeout and not nobody):
        return Fault.CONFLICT
    if isinstance(error, ConnectionFailure) or codes & _PASSING.keys():
        return Fault.PASSING
    if any(error.has_error_label(label) for label in _LABELS):
        return Fault.PASSING
    return Fault.LASTING


def _codes(error: PyMongoError) -> set[int]:
    details: Any = getattr(error, "details", None) or {}
    parts = [
        {"code": getattr(error, "code", None)},
        details.get("writeConcernError") or {},
        *details.get("writeErrors", ()),
        *details.get("writeConcernErrors", ()),
    ]
    return {part["code"] for part in parts if part.get("code") is not None}


def describe(error: BaseException) -> str:
    """The server's whole message with its code, and the document it is about."""
    return "\n".join([_message(error), *getattr(error, "__notes__", [])])


def _message(error: BaseException) -> str:
    if isinstance(error, BulkWriteError):
        details: Any = error.details or {}
        found = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        return "; ".join(_text(each) for each in found) or str(error)
    if isinstance(error, OperationFailure) and error.details:
        return _text({"code": error.code, **error.details})
    said = str(error).partition(", Topology Description:")[0] or type(error).__name__
    return _TRUST.explained(said)


def _text(details: Any) -> str:
    name = (
        details.get("codeName") or _CONFLICT.get(details["code"]) or _PASSING.get(details["code"])
    )
    text = f"{details.get('errmsg', '')} (code {details['code']}{f' {name}' if name else ''})"
    # A duplicate's key, and why a document does not pass its collection's validator.
    for key in ("keyValue", "errInfo"):
        if key in details:
            text += f" {key}: {shown(details[key])}"
    return text


def shown(value: Any) -> str:
    """A BSON value as people read it: relaxed Extended JSON."""
    return json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
