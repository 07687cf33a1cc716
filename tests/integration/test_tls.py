"""TLS to all four: who is not who it should be is refused, by name and with what to do.

MongoDB and Elasticsearch speak TLS themselves. The local PostgreSQL and Redis cannot: a proxy
speaks it for them, and for all four with certificates that are wrong.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from certificates import HOST, Authority, Signed
from proxy import Proxy
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from secured import Secured

from dharma_tasks.databases import connect
from dharma_tasks.databases.mongodb import connection as mongodb_connection
from dharma_tasks.dispatch import sender
from dharma_tasks.errors import Refused, Unreachable
from dharma_tasks.messages import read_message
from dharma_tasks.redis_client import require_redis
from dharma_tasks.settings import Settings

SERVICES = ("mongodb", "postgresql", "elasticsearch", "redis", "celery")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the clients of these tests trust."""
    return Authority(tmp_path_factory.mktemp("trusted"))


def address(settings: Settings, service: str) -> tuple[str, int]:
    """Where the engine behind the door is."""
    url: SecretStr = getattr(settings, f"{_setting(service)}_url")
    if service == "postgresql":
        found = conninfo_to_dict(url.get_secret_value())
        return str(found["host"]), int(found["port"])
    parts = urlsplit(url.get_secret_value())
    return parts.hostname or "", parts.port or 0


def _setting(service: str) -> str:
    return "redis" if service == "celery" else service


@contextmanager
def door(
    settings: Settings, service: str, server: Signed, clients: Authority | None = None
) -> Iterator[int]:
    """Speak TLS for a service, as `server`; only to those that `clients` has signed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.both)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    host, port = address(settings, service)
    with Proxy(host, port, tls=context, asks_first=service == "postgresql") as proxy:
        yield proxy.port


def through(
    settings: Settings, service: str, port: int, authority: Authority, client: Signed | None = None
) -> Settings:
    """The settings of somebody who comes by the door and trusts `authority`."""
    trusted = str(authority.certificate)
    name = _setting(service)
    if name == "elasticsearch":
        ours = client and {
            "elasticsearch_client_cert": client.certificate,
            "elasticsearch_client_key": client.key,
        }
        given = {"elasticsearch_ca_certs": Path(trusted), **(ours or {})}
        url = f"https://{HOST}:{port}"
    elif name == "postgresql":
        given, url = {}, _postgresql(settings, port, trusted, client)
    elif name == "mongodb":
        ours = f"&tlsCertificateKeyFile={client.both}" if client else ""
        given = {}
        url = f"mongodb://{HOST}:{port}/dharma?directConnection=true&tls=true&tlsCAFile={trusted}{ours}"
    else:
        ours = f"&ssl_certfile={client.certificate}&ssl_keyfile={client.key}" if client else ""
        given, url = {}, f"rediss://{HOST}:{port}/0?ssl_ca_certs={trusted}{ours}"
    return settings.model_copy(update={f"{name}_url": SecretStr(url), **given})


def _postgresql(settings: Settings, port: int, trusted: str, client: Signed | None) -> str:
    found = conninfo_to_dict(settings.postgresql_url.get_secret_value())  # type: ignore[union-attr]
    ours = (
        f"&sslcert={client.certificate}&sslkey={client.key}" if client else "&sslcertmode=disable"
    )
    return (
        f"postgresql://{found['user']}@{HOST}:{port}/{found['dbname']}"
        f"?sslmode=verify-full&sslrootcert={trusted}{ours}"
    )


def use(settings: Settings, service: str) -> str:
    """Do something there; returns nothing, or what is said of why it cannot be done."""
    try:
        if service == "redis":
            require_redis(settings).close()
        elif service == "celery":
            sender(settings)([[read_message("mongodb", f"{settings.namespace}:reply")]])
    except Unreachable as error:
        return str(error)
    if service in {"redis", "celery"}:
        return ""
    database: Any = connect(service, settings)
    try:
        database.journal.survey()
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - each driver's own
        return str(database.describe(error))
    finally:
        database.close()
    return ""


@pytest.mark.parametrize("service", SERVICES)
def test_both_show_who_they_are(settings: Settings, service: str, authority: Authority) -> None:
    """A server and a client with certificates of the right authority work together."""
    client = authority.sign("client")
    with door(settings, service, authority.sign("server"), clients=authority) as port:
        assert use(through(settings, service, port, authority, client), service) == ""


def test_servers_that_speak_tls_themselves(settings: Settings, secured: Secured) -> None:
    """The same, with what MongoDB and Elasticsearch themselves make of it."""
    keys = secured.keys
    known = settings.model_copy(
        update={
            "mongodb_url": SecretStr(secured.mongodb_url),
            "elasticsearch_url": SecretStr(secured.elasticsearch_url),
            "elasticsearch_ca_certs": keys.authority.certificate,
            "elasticsearch_client_cert": keys.client.both,
        }
    )
    assert use(known, "mongodb") == ""
    assert use(known, "elasticsearch") == ""


@pytest.mark.parametrize("service", SERVICES)
def test_a_client_without_a_certificate(
    settings: Settings, service: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has none to show is not let in where one is wanted."""
    monkeypatch.setattr(mongodb_connection, "_SELECTION_SECONDS", 0.5)
    with door(settings, service, authority.sign("server"), clients=authority) as port:
        assert use(through(settings, service, port, authority), service)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("wrong", ["authority", "name", "time"])
def test_a_wrong_server_is_refused(
    settings: Settings,
    service: str,
    wrong: str,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another authority, another name, another time: the message names the setting to look at.

    Without a word in the URL about it, too: Kombu alone would check nothing.
    """
    monkeypatch.setattr(mongodb_connection, "_SELECTION_SECONDS", 0.5)
    signer = Authority(tmp_path / "others") if wrong == "authority" else authority
    host = "another.example" if wrong == "name" else HOST
    server = signer.sign("wrong", host=host, days=-1 if wrong == "time" else 1)
    with door(settings, service, server) as port:
        said = use(through(settings, service, port, authority), service)
    words = {"authority": "authority", "name": "another name", "time": "has expired"}
    assert words[wrong] in said
    assert wrong == "time" or f"DHARMA_{_setting(service).upper()}" in said


def test_elasticsearch_by_fingerprint(settings: Settings, secured: Secured) -> None:
    """The certificate itself may be trusted, by its fingerprint; another one is refused."""
    url = SecretStr(secured.elasticsearch_url)
    known = settings.model_copy(
        update={
            "elasticsearch_url": url,
            "elasticsearch_fingerprint": secured.keys.server.fingerprint,
        }
    )
    assert use(known, "elasticsearch") == ""
    other = known.model_copy(update={"elasticsearch_fingerprint": secured.keys.client.fingerprint})
    assert "DHARMA_ELASTICSEARCH_FINGERPRINT" in use(other, "elasticsearch")


def test_elasticsearch_by_key_and_by_password(settings: Settings, secured: Secured) -> None:
    """An API key, and a password that is not in the URL, each say who is there."""
    scheme, _, rest = secured.elasticsearch_url.partition("://")
    login, _, host = rest.partition("@")
    user, password = login.partition(":")[0], secured.keys.password
    trusted = {"elasticsearch_ca_certs": secured.keys.authority.certificate}
    key = secured.api_key("whoever", ["monitor"], {})
    for given, kind in (
        ({"elasticsearch_url": f"{scheme}://{host}", "elasticsearch_api_key": key}, "api_key"),
        (
            {"elasticsearch_url": f"{scheme}://{user}@{host}", "elasticsearch_password": password},
            "realm",
        ),
    ):
        secret = {name: SecretStr(text) for name, text in given.items()}
        database: Any = connect("elasticsearch", settings.model_copy(update=secret | trusted))
        assert database.handle.security.authenticate()["authentication_type"] == kind
        database.close()
