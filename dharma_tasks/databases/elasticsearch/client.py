"""The driver's client, set up so that it never does anything twice."""

from __future__ import annotations

import re
import warnings

from elastic_transport import TransportWarning
from elasticsearch import Elasticsearch
from pydantic import SecretStr

from dharma_tasks.errors import Problem, Refused

# The server's warnings are logged with the operation that they belong to (see `told` in
# dharma_tasks/operations/elasticsearch/indices.py); the driver would print them to stderr too.
warnings.filterwarnings("ignore", category=TransportWarning, module=r"dharma_tasks\.")

_BETWEEN_URLS = re.compile(r",\s*(?=https?://)")
"""A comma elsewhere may be part of a password."""


def connect(url: SecretStr, seconds: float) -> Elasticsearch:
    """Make a client; it opens connections on first use.

    Several nodes of one cluster are several URLs with commas between. User and password in the URL
    become basic authentication, and `https` verifies the server's certificate. Every request gets
    its answer, or fails, within `seconds`. The driver must not retry: a request whose answer was
    lost may have had its effect, and only the caller can tell.

    Raises:
        Refused: the URL cannot be read.
    """
    try:
        return Elasticsearch(
            _BETWEEN_URLS.split(url.get_secret_value()),
            request_timeout=seconds,
            max_retries=0,
            retry_on_timeout=False,
            retry_on_status=(),
        )
    except ValueError:
        # Not the driver's own message: it quotes the URL, password and all.
        what = "DHARMA_ELASTICSEARCH_URL is not an Elasticsearch URL"
        todo = "Write https://USER:PASSWORD@HOST:PORT, with % codes where needed."
        raise Refused([Problem("", "", what, todo)]) from None
