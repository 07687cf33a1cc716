"""Makes the server hold back each reindex task from its birth: `celery worker -I throttling`.

`THROTTLING` names a file with the documents a second that a task may copy; without the file
tasks run as usual. Elasticsearch itself holds the task back, and the request is otherwise the
product's own. The id of each task that is started is written to `THROTTLING.log`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch

_RATE = Path(os.environ["THROTTLING"])
_original = Elasticsearch.reindex


@wraps(_original)
def _reindex(self: Elasticsearch, **options: Any) -> Any:
    with suppress(FileNotFoundError):
        options["requests_per_second"] = float(_RATE.read_text())
    answer = _original(self, **options)
    with Path(f"{_RATE}.log").open("a") as log:
        log.write(f"{answer['task']}\n")
    return answer


Elasticsearch.reindex = _reindex  # type: ignore[method-assign]
