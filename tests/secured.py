"""A MongoDB and an Elasticsearch that want a login and speak TLS only, beside the other engines."""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from certificates import Authority, Signed
from elasticsearch import Elasticsearch
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from dharma_tasks.local import LocalEngines, engines
from dharma_tasks.local.base import HOST, Place, Report
from dharma_tasks.local.elasticsearch import ElasticsearchEngine
from dharma_tasks.local.elasticsearch_files import VERSION
from dharma_tasks.local.mongodb import MongodbEngine

ADMIN = "administrator"
AWKWARD = "/@:%"
"""What is in every password, and must be a % code in a URL."""


@dataclass(frozen=True)
class Keys:
    """What such an engine is set up with."""

    authority: Authority
    server: Signed
    client: Signed
    password: str


class SecuredMongodb(MongodbEngine):
    """It wants a certificate from its clients, too."""

    keys: ClassVar[Keys]

    def prepare(self, place: Place, report: Report) -> None:
        """Members of a set trust each other by a key file, without which nobody has to log in."""
        super().prepare(place, report)
        key = place.home / "keyfile"
        if not key.exists():
            key.touch(0o600)
            key.write_text(secrets.token_hex(32))

    def command(self, place: Place) -> list[str]:
        return [
            *super().command(place),
            *("--keyFile", str(place.home / "keyfile"), "--tlsMode", "requireTLS"),
            *("--tlsCertificateKeyFile", str(self.keys.server.both)),
            *("--tlsCAFile", str(self.keys.authority.certificate)),
        ]

    def greet(self, place: Place) -> str:
        """Make the set and the administrator, which is allowed while there is no user."""
        client: MongoClient[dict[str, Any]]
        with MongoClient(f"{self.address(place, '')}&directConnection=true") as client:
            hello = client.admin.command("hello")
            if "setName" not in hello:
                self._initiate(client, place)
            assert hello.get("isWritablePrimary"), "not primary yet"
            try:
                client.admin.command("createUser", ADMIN, pwd=self.keys.password, roles=["root"])
            except OperationFailure:  # it is there already
                client.admin.command("ping")
        return "secured"

    def url(self, place: Place) -> str:
        return self.address(place, f"{_login(self.keys.password)}@") + "&replicaSet=dharma"

    def address(self, place: Place, login: str) -> str:
        """The URL for whoever logs in with `login`."""
        options = f"tlsCAFile={self.keys.authority.certificate}"
        ours = f"tlsCertificateKeyFile={self.keys.client.both}"
        return f"mongodb://{login}{HOST}:{place.port}/dharma?authSource=admin&tls=true&{options}&{ours}"


class SecuredElasticsearch(ElasticsearchEngine):
    """Its administrator is in a file, so that it needs no set-up when it runs."""

    keys: ClassVar[Keys]

    def prepare(self, place: Place, report: Report) -> None:
        config = place.home / "config"
        config.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.keys.server.certificate, config / "server.crt")
        shutil.copy(self.keys.server.key, config / "server.key")
        shutil.copy(self.keys.authority.certificate, config / "authority.pem")
        (config / "users").write_text(f"{ADMIN}:{_hashed(self.keys.password)}\n")
        (config / "users_roles").write_text(f"superuser:{ADMIN}\n")
        super().prepare(place, report)

    def settings(self, place: Place) -> dict[str, str]:
        return super().settings(place) | {
            "xpack.security.enabled": "true",
            "xpack.security.http.ssl.enabled": "true",
            "xpack.security.http.ssl.certificate": "server.crt",
            "xpack.security.http.ssl.key": "server.key",
            "xpack.security.http.ssl.certificate_authorities": "authority.pem",
            "xpack.security.http.ssl.client_authentication": "optional",
            # Bcrypt is made to be slow.
            "xpack.security.authc.password_hashing.algorithm": "pbkdf2_1000",
        }

    def greet(self, place: Place) -> str:
        with Elasticsearch(
            self.url(place),
            ca_certs=str(self.keys.authority.certificate),
            request_timeout=10,
            max_retries=0,
        ) as client:
            client.cluster.health(wait_for_status="yellow", timeout="5s")
        return VERSION

    def url(self, place: Place) -> str:
        return f"https://{_login(self.keys.password)}@{HOST}:{place.port}"


def _login(password: str) -> str:
    """The administrator's, for a URL."""
    return f"{ADMIN}:{quote(password, safe='')}"


def _hashed(password: str) -> str:
    """As Elasticsearch stores it."""
    salt = secrets.token_bytes(32)
    found = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 1000, 32)
    return "{PBKDF2}1000$" + "$".join(base64.b64encode(each).decode() for each in (salt, found))


_TEXTS = ("doc_type", "name", "api_key_hash")
_OBJECTS = ("role_descriptors", "limited_by_role_descriptors", "metadata_flattened", "creator")


@dataclass(frozen=True)
class Secured:
    """Both of them, as their administrator reaches them."""

    keys: Keys
    mongodb_url: str
    elasticsearch_url: str

    @contextmanager
    def mongodb(self) -> Iterator[MongoClient[dict[str, Any]]]:
        """A client that may do everything."""
        with MongoClient[dict[str, Any]](self.mongodb_url) as client:
            yield client

    @contextmanager
    def elasticsearch(self) -> Iterator[Elasticsearch]:
        """A client that may do everything."""
        trusted = str(self.keys.authority.certificate)
        with Elasticsearch(self.elasticsearch_url, ca_certs=trusted, request_timeout=60) as client:
            yield client

    def allow_api_keys(self) -> None:
        """Make the index in which Elasticsearch keeps them.

        It would make its own with an analyzer for e-mail addresses, out of a module that the
        server here does not have.
        """
        properties = {name: {"type": "keyword"} for name in _TEXTS}
        hidden = {name: {"type": "object", "enabled": False} for name in _OBJECTS}
        with self.elasticsearch() as client:
            client.indices.create(
                index="dharma-security",
                aliases={".security": {}},
                settings={"index.format": 6, "number_of_replicas": 0},
                mappings={
                    "_meta": {"security-version": VERSION},
                    "properties": properties | hidden,
                },
            )

    def api_key(self, name: str, cluster: list[str], indices: dict[str, list[str]]) -> str:
        """A key that may do only this: in the cluster, and by pattern in indices."""
        with self.elasticsearch() as client:
            role = {
                "cluster": cluster,
                "indices": [
                    {"names": [names], "privileges": rights} for names, rights in indices.items()
                ],
            }
            made = client.security.create_api_key(name=name, role_descriptors={name: role})
        return str(made["encoded"])


@contextmanager
def started(folder: Path) -> Iterator[Secured]:
    """Start both, side by side, and end them."""
    authority = Authority(folder / "keys")
    password = secrets.token_hex(8) + AWKWARD
    keys = Keys(authority, authority.sign("server"), authority.sign("client"), password)
    SecuredMongodb.keys = SecuredElasticsearch.keys = keys
    local = LocalEngines(folder / "engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, "mongodb", SecuredMongodb())
        patch.setitem(engines.ENGINES, "elasticsearch", SecuredElasticsearch())
        try:
            found = local.up(only=["mongodb", "elasticsearch"])
        except BaseException:
            local.delete()
            raise
    try:
        secured = Secured(keys, found["DHARMA_MONGODB_URL"], found["DHARMA_ELASTICSEARCH_URL"])
        secured.allow_api_keys()
        yield secured
    finally:
        local.delete()
