"""`DHARMA_MONGODB_URL_FILE` and the like: a secret in a file, as container platforms mount them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from dharma_tasks.errors import Problem, Refused

_READABLE = "Whoever runs this process must be able to read it; it holds the secret and no more."


class SecretFiles(PydanticBaseSettingsSource):
    """For every setting that is a secret, the file that the variable `…_FILE` of a place names.

    `place` holds the variables themselves: the environment, or `.env`. Files are read once.
    """

    def __init__(self, settings_cls: type[BaseSettings], place: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._variables = place.env_vars if isinstance(place, EnvSettingsSource) else {}
        self._prefix = str(self.config.get("env_prefix"))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """What the file holds; None where there is none. For pydantic."""
        variable = f"{self._prefix}{field_name}"
        path = self._variables.get(f"{variable}_file".lower())
        if path is None:
            return None, field_name, False
        beside = self._variables.get(variable.lower()) is not None
        return text_of_file(variable, path, beside=beside), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every secret that is in a file.

        Raises:
            Refused: a file that cannot be read, or has nothing in it; all of them at once.
        """
        found: dict[str, Any] = {}
        problems: list[Problem] = []
        for name, field in self.settings_cls.model_fields.items():
            if field.annotation is not SecretStr and field.annotation != SecretStr | None:
                continue
            try:
                value, key, _ = self.get_field_value(field, name)
            except Refused as refused:
                problems += refused.problems
                continue
            if value is not None:
                found[key] = SecretStr(value)
        if problems:
            raise Refused(problems)
        return found


def text_of_file(variable: str, path: str, *, beside: bool) -> str:
    """The file that `variable` with `_FILE` names, without the line end that editors leave.

    `beside` is whether the variable itself is set too.

    Raises:
        Refused: it is, or the file cannot be read, or has nothing in it.
    """
    if beside:
        raise _refused(variable, "is set beside the variable itself", "Keep one of the two.")
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _refused(variable, f"{path} cannot be read: {error.strerror}", _READABLE) from None
    except UnicodeDecodeError:
        raise _refused(variable, f"{path} is not text in UTF-8", _READABLE) from None
    if not text:
        raise _refused(variable, f"{path} is empty", "Put the secret into it.")
    return text


def _refused(variable: str, what: str, todo: str) -> Refused:
    return Refused([Problem("", "", f"{variable.upper()}_FILE: {what}", todo)])
