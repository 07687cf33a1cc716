"""Looking at aliases before and after something is done to them."""

from __future__ import annotations

from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import offered


def holders(client: Elasticsearch, alias: str) -> JSON:
    """The indices that have the alias now, and how: filter, routing and all."""
    try:
        answer = client.indices.get_alias(name=alias)
    except NotFoundError:
        return {}
    return {index: found["aliases"][alias] for index, found in answer.items()}


def suggest(client: Elasticsearch, alias: str) -> str:
    """What else may have been meant: the aliases that are near, and those that there are."""
    # Not the server's own indices, whose names begin with a dot.
    known = client.indices.get_alias(index="*,-.*", expand_wildcards=["open", "closed"])
    return offered(alias, {each: each for found in known.values() for each in found["aliases"]})
