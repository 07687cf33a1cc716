"""The driver's client, set up so that it never does anything twice."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

from elastic_transport import TransportWarning
from elasticsearch import Elasticsearch

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.settings import Settings
from dharma_tasks.urls import misread

# The server's warnings are logged with the operation that they belong to (see `told` in
# dharma_tasks/operations/elasticsearch/indices.py); the driver would print them to stderr too.
warnings.filterwarnings("ignore", category=TransportWarning, module=r"dharma_tasks\.")

_NO_URL = (
    "DHARMA_ELASTICSEARCH_URL is not an Elasticsearch URL",
    "Write https://USER:PASSWORD@HOST:PORT, with % codes where needed.",
)
_USER_ALONE = re.compile(r"^(https?://[^:@/?#]+)@")
_BETWEEN_URLS = re.compile(r",\s*(?=https?://)")
"""A comma elsewhere may be part of a password."""


def connect(settings: Settings, seconds: float) -> Elasticsearch:
    """Make a client; it opens connections on first use.

    Several nodes of one cluster are several URLs with commas between. User and password in the URL
    become basic authentication, and `https` verifies the server's certificate. Every request gets
    its answer, or fails, within `seconds`. The driver must not retry: a request whose answer was
    lost may have had its effect, and only the caller can tell.

    Raises:
        Refused: the settings cannot be used.
    """
    hosts = _hosts(settings)
    options = {**_login(settings, hosts), **_trust(settings, hosts)}
    try:
        return Elasticsearch(
            hosts,
            request_timeout=seconds,
            max_retries=0,
            retry_on_timeout=False,
            retry_on_status=(),
            **options,
        )
    except ValueError:
        # Not the driver's own message: it quotes the URL, password and all.
        raise _refused(*_NO_URL) from None


def _hosts(settings: Settings) -> list[str]:
    """The nodes' URLs, with the password where one has only a user."""
    url, password = settings.elasticsearch_url, settings.elasticsearch_password
    urls = _BETWEEN_URLS.split(url.get_secret_value() if url else "")
    if any(misread(each) for each in urls):
        raise _refused(*_NO_URL)
    if password is None:
        return urls
    secret = quote(password.get_secret_value(), safe="")
    filled = [_USER_ALONE.sub(lambda found: f"{found[1]}:{secret}@", each) for each in urls]
    if filled == urls:
        raise _refused(
            "DHARMA_ELASTICSEARCH_PASSWORD is for a user that DHARMA_ELASTICSEARCH_URL does not "
            "name, or has a password for",
            "Write https://USER@HOST:PORT.",
        )
    return filled


def _login(settings: Settings, hosts: list[str]) -> dict[str, Any]:
    key = settings.elasticsearch_api_key
    if key is None:
        return {}
    if any("@" in host for host in hosts):
        raise _refused(
            "DHARMA_ELASTICSEARCH_API_KEY is set, and DHARMA_ELASTICSEARCH_URL names a user",
            "Keep one of the two.",
        )
    return {"api_key": key.get_secret_value()}


def _trust(settings: Settings, hosts: list[str]) -> dict[str, Any]:
    """Whose certificates count, and which is our own."""
    given = {
        "ca_certs": settings.elasticsearch_ca_certs,
        "client_cert": settings.elasticsearch_client_cert,
        "client_key": settings.elasticsearch_client_key,
        "ssl_assert_fingerprint": settings.elasticsearch_fingerprint,
    }
    found = {name: str(value) for name, value in given.items() if value is not None}
    if found and not all(host.startswith("https://") for host in hosts):
        raise _refused(
            "DHARMA_ELASTICSEARCH_URL is not https, and a certificate is set",
            "Write https://HOST:PORT, or remove the certificate's settings.",
        )
    if "ssl_assert_fingerprint" in found and len(found) > 1:
        raise _refused(
            "DHARMA_ELASTICSEARCH_FINGERPRINT stands beside other settings of certificates",
            "It goes alone: name the authority instead (DHARMA_ELASTICSEARCH_CA_CERTS).",
        )
    for name, value in given.items():
        if isinstance(value, Path) and not os.access(value, os.R_OK):
            raise _refused(
                f"DHARMA_ELASTICSEARCH_{name.upper()}: {value} cannot be read",
                "Name a file in PEM format that this process may read.",
            )
    return found


def _refused(what: str, todo: str) -> Refused:
    return Refused([Problem("", "", what, todo)])
