"""Passwords that are looked for afterwards, in everything that is written, sent and stored."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
from bson import json_util
from elasticsearch import Elasticsearch
from pymongo import MongoClient
from redis import Redis
from redis.exceptions import RedisError
from secured import AWKWARD

_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
"""Perhaps base64: Celery's messages are, and the logins in HTTP headers."""


@dataclass
class Canaries:
    """The passwords; `heard` is everything that was seen, by where."""

    cores: list[str] = field(default_factory=list)
    heard: dict[str, str] = field(default_factory=dict)

    def password(self) -> str:
        """A new one: a part that is the same in every writing, and characters that are not."""
        return self.add(secrets.token_hex(8) + AWKWARD)

    def add(self, password: str) -> str:
        """Look for this one too."""
        self.cores.append(password.removesuffix(AWKWARD))
        return password

    def hear(self, where: str, what: str) -> None:
        """Keep something to look through."""
        self.heard[where] = self.heard.get(where, "") + what

    def found(self) -> list[str]:
        """Where any of them was, with what stood around it."""
        return [
            f"{where}: …{text[max(at - 80, 0) : at + 40]}"
            for where, heard in self.heard.items()
            for text in (heard, *_decoded(heard))
            for core in self.cores
            if (at := text.find(core)) >= 0
        ]


def _decoded(text: str) -> Iterator[str]:
    for token in set(_ENCODED.findall(text)):
        whole = token.rstrip("=")
        with_end = whole + "=" * (-len(whole) % 4)
        try:
            yield base64.b64decode(with_end, altchars=b"-_" if "_" in whole else None).decode()
        except ValueError:
            continue


def escaped(password: str) -> str:
    """For a URL."""
    return quote(password, safe="")


@contextmanager
def listening(redis: Redis, canaries: Canaries) -> Iterator[None]:
    """Hear every command that anybody sends to Redis: messages, events, records."""
    with redis.monitor() as monitor:

        def listen() -> None:
            try:
                for said in monitor.listen():
                    canaries.hear("sent through Redis", f"{said['command']}\n")
            except (RedisError, OSError, ValueError):  # it is over
                return

        thread = Thread(target=listen, daemon=True)
        thread.start()
        yield
        monitor.connection.disconnect()
        thread.join(5)


def stored_in_redis(redis: Any, url: str) -> Iterable[str]:
    """Every value of every database."""
    for number in (name.removeprefix("db") for name in redis.info("keyspace")):
        with Redis.from_url(url, db=int(number), decode_responses=True) as one:
            for key in one.scan_iter():
                yield f"{key} {_value(one, key)}\n"


def _value(redis: Any, key: str) -> Any:
    match redis.type(key):
        case "string":
            return redis.get(key)
        case "hash":
            return redis.hgetall(key)
        case "list":
            return redis.lrange(key, 0, -1)
        case "set":
            return redis.smembers(key)
        case "zset":
            return redis.zrange(key, 0, -1)
    return ""


def stored_in_mongodb(client: MongoClient[Any], database: str, beside: str) -> Iterable[str]:
    """Every document, but for the application's own in `beside`."""
    for name in {*client[database].list_collection_names()} - {beside}:
        for document in client[database][name].find():
            yield json_util.dumps(document) + "\n"


def stored_in_postgresql(conninfo: str) -> Iterable[str]:
    """Every row."""
    query = "SELECT relname FROM pg_stat_user_tables"
    with psycopg.connect(conninfo) as connection:
        for (name,) in connection.execute(query).fetchall():
            for (row,) in connection.execute(f'SELECT t::text FROM "{name}" t'):
                yield f"{row}\n"


def stored_in_elasticsearch(client: Elasticsearch, prefix: str) -> Iterable[str]:
    """Every document."""
    client.indices.refresh(index=f"{prefix}*")
    found = client.search(index=f"{prefix}*", size=1000, expand_wildcards="all")
    for hit in found["hits"]["hits"]:
        yield f"{hit['_source']}\n"


def command_lines() -> str:
    """Of everything that runs on this machine."""
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has ended
            continue
    return "\n".join(lines)
