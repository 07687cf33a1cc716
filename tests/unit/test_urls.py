"""A URL that no driver takes: said by name, and never quoted, for it holds the password."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from dharma_tasks.databases import connect
from dharma_tasks.errors import Refused
from dharma_tasks.redis_client import redis_url, require_redis
from dharma_tasks.settings import Settings
from dharma_tasks.urls import misread

PASSWORD = "se#c/re@t"
SCHEMES = {
    "mongodb": "mongodb",
    "postgresql": "postgresql",
    "elasticsearch": "https",
    "redis": "redis",
}


def use(name: str, settings: Settings) -> None:
    """Connect."""
    if name == "redis":
        require_redis(settings)
    connect(name, settings).journal.survey()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("mongodb", f"mongodb://user:{PASSWORD}@host:27017/app"),
        ("mongodb", f"mongodb://user:{PASSWORD}@host:x/app"),
        ("postgresql", f"postgresql://user:{PASSWORD}%zz@host/app"),
        ("elasticsearch", f"http://user:{PASSWORD}@host:9200"),
        ("elasticsearch", f"user:{PASSWORD}"),
        *[
            (name, f"{scheme}://{rest}")
            for name, scheme in SCHEMES.items()
            for rest in (
                "user:se#c@re@t@host/app",
                "user:1/re@t@host/app",
                "user:1?re@t@host/app",
                "user:se#c",
                "user:123456",
            )
        ],
    ],
)
def test_a_bad_url_is_refused_by_name(name: str, url: str) -> None:
    """The message names the setting and shows how to write it."""
    settings = Settings(_env_file=None).model_copy(update={f"{name}_url": SecretStr(url)})
    with pytest.raises(Refused) as refused:
        use(name, settings)
    message = str(refused.value)
    assert f"DHARMA_{name.upper()}_URL" in message
    for part in ("se#c", "re@t", "c/re", "se#", "@t", "123456"):
        assert part not in message


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://u:p%40s@a:1,b:2/app?replicaSet=rs",
        "mongodb+srv://u:p@host/app",
        "postgresql://u:p#s@[::1]:5432,[::2]/app?sslmode=require",
        "postgresql:///app?host=%2Ftmp",
        "redis://:pass@host",
        "redis://127.0.0.1:6379/0",
        "host=somewhere password='p@ss/w:ord'",
    ],
)
def test_a_good_url_is_not_taken_for_a_bad_one(url: str) -> None:
    """With several hosts, without any, with codes, with addresses that hold colons."""
    assert not misread(url, ends="/?")


def test_redis_checks_certificates_unless_it_is_told_not_to() -> None:
    """What the URL says itself stays; without TLS nothing is added."""

    def made(url: str) -> str:
        return redis_url(Settings(_env_file=None, redis_url=SecretStr(url)))

    assert made("redis://h/0?a=b") == "redis://h/0?a=b"
    checked = "ssl_cert_reqs=required&ssl_check_hostname=true"
    assert made("rediss://:p%40@h:1/2?ssl_ca_certs=/a/b") == (
        f"rediss://:p%40@h:1/2?ssl_ca_certs=/a/b&{checked}"
    )
    assert made("rediss://h?ssl_cert_reqs=none") == "rediss://h?ssl_cert_reqs=none"
