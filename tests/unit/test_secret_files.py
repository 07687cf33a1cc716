"""Secrets in files, as container platforms mount them: `DHARMA_…_FILE`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from dharma_tasks import settings as module
from dharma_tasks.errors import Refused
from dharma_tasks.settings import Settings

PASSWORD = "c4nary-pa55-that-is-long-enough-for-a-key"
SECRETS = [
    name
    for name, field in Settings.model_fields.items()
    if "Secret" in str(field.annotation) and name != "secret"  # of migrations: see test_hidden.py
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` but the test's own, and no variable of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in SECRETS:
        monkeypatch.delenv(f"DHARMA_{name.upper()}", raising=False)


def secret(settings: Settings, name: str) -> str:
    """What a setting holds."""
    found: SecretStr = getattr(settings, name)
    return found.get_secret_value()


def refused() -> str:
    """What is said of settings that cannot be."""
    with pytest.raises(Refused) as caught:
        module.read()
    return str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_be_in_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the line end of the file."""
    (tmp_path / "mounted").write_text(f"redis://:{PASSWORD}@host/0\n")
    monkeypatch.setenv(f"DHARMA_{name.upper()}_FILE", str(tmp_path / "mounted"))
    assert secret(module.read(), name) == f"redis://:{PASSWORD}@host/0"


def test_the_environment_wins_over_the_file_env(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.env` may name a file too; what the environment says, either way, comes first."""
    (tmp_path / "one").write_text("redis://one")
    (tmp_path / "two").write_text("redis://two")
    (tmp_path / ".env").write_text("DHARMA_REDIS_URL_FILE=one\n")
    assert secret(module.read(), "redis_url") == "redis://one"
    monkeypatch.setenv("DHARMA_REDIS_URL_FILE", "two")
    assert secret(module.read(), "redis_url") == "redis://two"
    monkeypatch.setenv("DHARMA_REDIS_URL", "redis://three")
    monkeypatch.delenv("DHARMA_REDIS_URL_FILE")
    assert secret(module.read(), "redis_url") == "redis://three"
    assert secret(module.read(redis_url=SecretStr("redis://given")), "redis_url") == "redis://given"


def test_what_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: a file that is not there, an empty one, one that is no text, and both ways."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("DHARMA_REDIS_URL_FILE", "nowhere")
    monkeypatch.setenv("DHARMA_MONGODB_URL_FILE", "empty")
    monkeypatch.setenv("DHARMA_POSTGRESQL_URL_FILE", "binary")
    monkeypatch.setenv("DHARMA_ELASTICSEARCH_URL_FILE", "empty")
    monkeypatch.setenv("DHARMA_ELASTICSEARCH_URL", f"http://u:{PASSWORD}@host")
    said = refused().splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "DHARMA_REDIS_URL_FILE",
        "DHARMA_MONGODB_URL_FILE",
        "DHARMA_POSTGRESQL_URL_FILE",
        "DHARMA_ELASTICSEARCH_URL_FILE",
    ]
    for line, part in zip(said, ("No such file", "empty", "UTF-8", "Keep one"), strict=True):
        assert part in line
    assert PASSWORD not in "".join(said)


def test_settings_do_not_show_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as text, nor when another setting is refused."""
    for name in SECRETS:
        monkeypatch.setenv(f"DHARMA_{name.upper()}", PASSWORD)
    shown = module.read()
    assert PASSWORD not in f"{shown!r} {shown} {shown.model_dump()} {shown.model_dump_json()}"
    monkeypatch.setenv("DHARMA_LEASE_SECONDS", "soon")
    assert PASSWORD not in refused()
    with pytest.raises(ValueError, match="lease_seconds") as caught:
        Settings()
    assert PASSWORD not in str(caught.value)
