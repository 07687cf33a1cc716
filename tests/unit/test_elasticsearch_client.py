"""Settings of Elasticsearch that do not go together are refused, and nothing secret is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dharma_tasks.databases import connect
from dharma_tasks.errors import Refused
from dharma_tasks.settings import Settings

SECRET = SecretStr("c4nary-pa55")
HERE = Path(__file__)


@pytest.mark.parametrize(
    ("url", "given", "named"),
    [
        ("https://u:p@h", {"api_key": SECRET}, "DHARMA_ELASTICSEARCH_API_KEY"),
        ("https://h", {"password": SECRET}, "DHARMA_ELASTICSEARCH_PASSWORD"),
        ("https://u:own@h", {"password": SECRET}, "DHARMA_ELASTICSEARCH_PASSWORD"),
        ("http://h", {"ca_certs": HERE}, "is not https"),
        ("https://a,http://b", {"fingerprint": "00"}, "is not https"),
        ("https://h", {"ca_certs": HERE, "fingerprint": "00"}, "DHARMA_ELASTICSEARCH_CA_CERTS"),
        ("https://h", {"ca_certs": HERE / "no"}, "DHARMA_ELASTICSEARCH_CA_CERTS"),
        ("https://h", {"client_key": HERE / "no"}, "DHARMA_ELASTICSEARCH_CLIENT_KEY"),
    ],
)
def test_what_does_not_go_together(url: str, given: dict[str, Any], named: str) -> None:
    """Each time the setting is named."""
    update = {f"elasticsearch_{name}": value for name, value in given.items()}
    update["elasticsearch_url"] = SecretStr(url)
    with pytest.raises(Refused) as refused:
        connect("elasticsearch", Settings(_env_file=None).model_copy(update=update))
    assert named in str(refused.value)
    assert SECRET.get_secret_value() not in str(refused.value)
