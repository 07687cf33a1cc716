"""The environment, or a `.env` file, as one frozen object. Secrets are `SecretStr`.

A secret may also be in a file, as container platforms mount them: see `secret_files`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dharma_tasks.bounds import Bounds
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.secret_files import SecretFiles, text_of_file
from dharma_tasks.strict_json import MAX_DEPTH

SHORTEST_KEY = 32
"""Characters that a key must have at least: one of hex digits has 128 bits then."""


class Settings(BaseSettings):
    """Every setting; the environment variable is `DHARMA_` and the name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="DHARMA_",
        env_file=".env",
        env_ignore_empty=True,
        env_nested_delimiter="_",  # DHARMA_VALUE_NAME, DHARMA_SECRET_NAME; no other has parts
        env_nested_max_split=1,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # what pydantic quotes may be a secret
    )

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    mongodb_url: SecretStr | None = None
    mongodb_database: str | None = None
    """The database's name, if it is not the one in the URL."""
    postgresql_url: SecretStr | None = None
    elasticsearch_url: SecretStr | None = None
    elasticsearch_api_key: SecretStr | None = None
    """Instead of a user: as the server encodes it (`encoded`)."""
    elasticsearch_password: SecretStr | None = None
    """For the users that have none in the URL."""
    elasticsearch_ca_certs: Path | None = None
    """Whose certificates are trusted; without it the usual authorities'."""
    elasticsearch_fingerprint: str | None = None
    """SHA-256 of a certificate (the server's, or of whoever signed it) that is trusted instead."""
    elasticsearch_client_cert: Path | None = None
    """What this client shows to a server that asks for a certificate."""
    elasticsearch_client_key: Path | None = None
    """Its key, where it is not in the same file."""
    migrations_dir: Path = Path("migrations")
    max_file_mb: float = Field(default=Bounds.file_mb, gt=0)
    """How large one file of a migration may be, in megabytes."""
    max_depth: int = Field(default=Bounds.depth, ge=10, le=MAX_DEPTH)
    """How deeply the JSON of a migration may be nested; MongoDB stores nothing deeper than 100."""
    max_files: int = Field(default=Bounds.files, ge=1)
    """How many migrations the folder may hold, their rollbacks included."""
    max_name: int = Field(default=Bounds.name, ge=10)
    """How many characters a migration's name may have."""
    namespace: str = Field(default="dharma", pattern=r"^[a-z][a-z0-9_]{0,30}$")
    """Prefixes Redis keys, queues and the journal's names: two projects can share servers."""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    lease_seconds: float = Field(default=10, ge=1, le=300)
    """How long a lease lives without a sign of life from its holder."""
    rescue_seconds: float = Field(default=2, ge=0.1, le=60)
    """How often each worker looks for work that nobody does."""
    max_attempts: int = Field(default=5, ge=1)
    """How often an operation may be begun without its cursor moving: a worker killer stops."""
    retry_seconds: float = Field(default=3600, ge=0)
    """How long passing errors (a lost connection, a lock) are retried without progress."""
    batch_seconds: float = Field(default=1, gt=0, le=60)
    """How long one batch should take; the number of documents follows from it."""
    lock_timeout_seconds: float = Field(default=5, gt=0)
    """PostgreSQL's `lock_timeout`: a DDL that waits longer lets the traffic behind it pass."""
    max_lag_seconds: float = Field(default=10, ge=0)
    """How far behind a replica may be for bulk work to go on."""
    max_lock_waits: int = Field(default=10, ge=0)
    """How many sessions of PostgreSQL may wait for locks for bulk work to go on."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where a worker answers Prometheus; None: nowhere."""
    metrics_host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 for all of this machine's."""
    keep_undo_days: int = Field(default=30, ge=0)
    """How old what is kept for the way back must be for `dharma prune` to remove it."""
    signing_key: SecretStr | None = None
    """What whoever submits signs with, and workers believe: see `signing`."""
    signing_key_accepted: SecretStr | None = None
    """Another one that is believed too, while keys are exchanged."""

    value: dict[str, str] = {}
    """What `{"$value": "NAME"}` in migrations stands for; see `values`."""

    encryption_key: SecretStr | None = None
    """For `{"$encrypted": …}` in migrations and for before-images; see `encryption`."""
    secret: dict[str, SecretStr] = {}
    """What `{"$secret": "NAME"}` stands for where this process is a worker; see `hidden`."""

    @field_validator("signing_key", "signing_key_accepted")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key) < SHORTEST_KEY:
            text = "it has less than {least} characters; openssl rand -hex 32 makes one"
            raise PydanticCustomError("short_key", text, {"least": SHORTEST_KEY})
        return key

    @property
    def values(self) -> dict[str, str]:
        """The texts of `DHARMA_VALUE_NAME`, by NAME."""
        return {name.upper(): text for name, text in self.value.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """After each place for variables, the files that its `…_FILE` name."""
        places = (env_settings, dotenv_settings)
        found = [each for place in places for each in (place, SecretFiles(settings_cls, place))]
        return (init_settings, *found)

    def secret_text(self, name: str) -> str | None:
        """The secret `name`: of `DHARMA_SECRET_NAME`, or of the file that `…_FILE` names, now.

        Raises:
            Refused: the file cannot be read, or both are set.
        """
        here = self.secret.get(name.lower())
        file = self.secret.get(f"{name.lower()}_file")
        variable = f"DHARMA_SECRET_{name}"
        if file is not None:
            return text_of_file(variable, file.get_secret_value(), beside=here is not None)
        return None if here is None else here.get_secret_value()

    def url(self, database: str) -> SecretStr | None:
        """The URL for `database`, or None where this process does not serve it."""
        value: SecretStr | None = getattr(self, f"{database}_url")
        return value


def refusal(error: ValidationError) -> Refused:
    """Say which settings cannot be; their values are never shown."""
    return Refused(
        [
            Problem(
                "",
                "",
                f"DHARMA_{'_'.join(str(part) for part in detail['loc']).upper()}: {detail['msg']}",
                "Correct it in the environment or in .env.",
            )
            for detail in error.errors(include_input=False, include_url=False)
        ]
    )


@cache
def settings() -> Settings:
    """Read the environment once for this process.

    Raises:
        Refused: a variable that cannot be; the message never shows its value.
    """
    return read()


def read(**given: Any) -> Settings:
    """Read the environment for all that is not `given`.

    Raises:
        Refused: as `settings`.
    """
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise refusal(error) from None
