"""Deleting one recorded index, and no other that has its name by now (FAULTS 11).

Elasticsearch deletes by name only. So the UUID is compared just before, and what is left of the
window is the time between the two requests: an index that somebody else deletes and creates
again within it would be deleted (docs/reliability.md).
"""

from __future__ import annotations

from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.operations.elasticsearch.indices import recorded, told
from dharma_tasks.work import Work


def delete(work: Work[Elasticsearch], name: str, uuid: str | None) -> None:
    """Delete the index, where it is there; harmless when repeated.

    Raises:
        Interrupted: it is there still.
    """
    if not _is_there(work, name, uuid):
        return
    work.confirm()
    _delete(work, name)
    if _is_there(work, name, uuid):
        message = f'index "{name}" is not deleted yet'
        raise Interrupted(message)


def _is_there(work: Work[Elasticsearch], name: str, uuid: str | None) -> bool:
    if recorded(work.handle, name, uuid) is not None:
        return True
    if work.handle.indices.exists(index=name):
        work.warn(f'index "{name}" was created anew by somebody else; it is left alone')
    return False


def _delete(work: Work[Elasticsearch], name: str) -> None:
    try:
        told(work, work.handle.indices.delete(index=name))
    except NotFoundError:
        return  # somebody was faster
