"""The Celery application's settings, where they follow from ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
from dharma_tasks.celery_app import app
print(app.conf.worker_concurrency, *sorted(queue.name for queue in app.conf.task_queues))
"""


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (["mongodb"], "2 mongodb"),
        (["mongodb", "postgresql"], "3 mongodb postgresql"),
        ([], "4 elasticsearch mongodb postgresql"),
    ],
)
def test_a_child_for_each_database_and_one_to_answer(
    served: list[str], expected: str, tmp_path: Path
) -> None:
    """However many processors there are: fewer children would make databases wait for each other.

    Where no URL is set, the application is asked by who sends, or shows; it knows every queue.
    """
    ours = {k: v for k, v in os.environ.items() if not k.startswith("DHARMA_")}
    urls = {f"DHARMA_{name.upper()}_URL": f"{name}://h/d" for name in served}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=ours | urls,
        cwd=tmp_path,  # no .env of whoever runs the tests
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
