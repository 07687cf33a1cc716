"""A URL that no driver takes: said by name, and never quoted, for it holds the password."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from dharma_tasks.databases import connect
from dharma_tasks.errors import Refused
from dharma_tasks.settings import Settings

PASSWORD = "se#c/re@t"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("mongodb", f"mongodb://user:{PASSWORD}@host:27017/app"),
        ("mongodb", f"mongodb://user:{PASSWORD}@host:x/app"),
        ("postgresql", f"postgresql://user:{PASSWORD}%zz@host/app"),
        ("elasticsearch", f"http://user:{PASSWORD}@host:9200"),
        ("elasticsearch", f"user:{PASSWORD}"),
    ],
)
def test_a_bad_url_is_refused_by_name(name: str, url: str) -> None:
    """The message names the setting and shows how to write it."""
    settings = Settings(_env_file=None).model_copy(update={f"{name}_url": SecretStr(url)})
    with pytest.raises(Refused) as refused:
        connect(name, settings).journal.survey()
    message = str(refused.value)
    assert f"DHARMA_{name.upper()}_URL" in message
    for part in ("se#c", "re@t", "c/re", "se#", "@t"):
        assert part not in message
