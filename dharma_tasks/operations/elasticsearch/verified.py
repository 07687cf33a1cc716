"""The end of a reindex: whether the destination has got what the source has."""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.errors import OperationFailed
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.ranges import Following
from dharma_tasks.operations.elasticsearch.sources import doubles
from dharma_tasks.work import Work


def verify(work: Work[Elasticsearch], pair: Pair, dropped: int, at: Following) -> None:
    """Compare the counts; where the source is still written to they prove nothing.

    `dropped` is how many documents an ingest pipeline has dropped in the first pass.

    Raises:
        OperationFailed: nobody writes to the source, and they are different all the same.
    """
    if at.followed and pair.shared:
        work.warn(f"deletes in {pair.source} were not carried over to {pair.dest}: {pair.shared}")
    unfit = _name_unfit(work, pair, at.unfit)
    expected, there = pair.counts(work.handle)
    if pair.marks(work.handle) != at.marks:
        work.warn(
            f"{pair.source} is still written to: what was written, or deleted, there in the last "
            f"moment is not in {pair.dest}"
        )
    elif expected is None:
        work.warn(f"counting what matches in {pair.source} takes too long, so nothing was compared")
    else:
        _compare(work, pair, expected - dropped - at.dropped - unfit, there)


def _name_unfit(work: Work[Elasticsearch], pair: Pair, unfit: dict[str, str]) -> int:
    """Name the documents that were left out, and return how many of them there still are."""
    if not unfit:
        return 0
    named = "; ".join(f'document "{each}": {why}' for each, why in unfit.items())
    work.warn(f"{len(unfit)} documents of {pair.source} do not fit into {pair.dest}: {named}")
    return pair.counted(work.handle, list(unfit))


def _compare(work: Work[Elasticsearch], pair: Pair, expected: int, there: int) -> None:
    if pair.held and expected > there:
        work.warn(
            f"{pair.dest} held {pair.held} documents before; {expected - there} of "
            f"{pair.source} have the id of one of these and were not copied"
        )
    elif expected > there or (expected < there and not pair.shared):
        what = f"{pair.source} has {expected} documents to copy, {pair.dest} has got {there}"
        if named := doubles(work.handle, pair):
            why = f"several documents of {pair.source} have one id: {', '.join(named)}"
            raise OperationFailed(
                f"{what}; {why}", "Give each an id of its own, or use two indices"
            )
        doing = "deletes from" if expected > there else "writes to"
        raise OperationFailed(what, f"See whether somebody {doing} {pair.dest}; then submit again")
