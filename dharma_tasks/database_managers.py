"""The databases that a program names: see `DatabaseMigrationManager`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import SecretStr

__all__ = [
    "DatabaseManager",
    "ElasticsearchManager",
    "MongoDBManager",
    "PostgreSQLManager",
    "secret",
]


class DatabaseManager(ABC):
    """Where one database is. Nothing is connected before it is needed."""

    database: ClassVar[str]

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """The settings that lead there, by name."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class MongoDBManager(DatabaseManager):
    """The database `database_name` of the MongoDB servers that `connection_string` leads to.

    What the string says of the database's name does not count, except for the authentication.
    """

    database: ClassVar[str] = "mongodb"

    def __init__(self, connection_string: str | SecretStr, database_name: str) -> None:
        self._url = secret(connection_string)
        self._name = database_name

    def settings(self) -> dict[str, object]:
        """URL and name."""
        return {"mongodb_url": self._url, "mongodb_database": self._name}


class PostgreSQLManager(DatabaseManager):
    """The PostgreSQL database that `connection_string` leads to: a URL, or `host=… dbname=…`."""

    database: ClassVar[str] = "postgresql"

    def __init__(self, connection_string: str | SecretStr) -> None:
        self._url = secret(connection_string)

    def settings(self) -> dict[str, object]:
        """The URL."""
        return {"postgresql_url": self._url}


class ElasticsearchManager(DatabaseManager):
    """The Elasticsearch cluster with the nodes `hosts`: one URL, or several.

    `username` and `password` are for those that have none in their URL.
    """

    database: ClassVar[str] = "elasticsearch"

    def __init__(
        self,
        hosts: str | Sequence[str],
        *,
        username: str | None = None,
        password: str | SecretStr | None = None,
    ) -> None:
        urls = [hosts] if isinstance(hosts, str) else list(hosts)
        if username is not None:
            login = f"{quote(username, safe='')}:{quote(_plain(password), safe='')}"
            urls = [_with_login(url, login) for url in urls]
        self._url = SecretStr(",".join(urls))

    def settings(self) -> dict[str, object]:
        """The URLs."""
        return {"elasticsearch_url": self._url}


def secret(text: str | SecretStr) -> SecretStr:
    """The text, hidden from now on."""
    return text if isinstance(text, SecretStr) else SecretStr(text)


def _plain(text: str | SecretStr | None) -> str:
    return text.get_secret_value() if isinstance(text, SecretStr) else text or ""


def _with_login(url: str, login: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))
