"""Names that somebody has chosen with malice, or copied from somewhere."""

from __future__ import annotations

from collections.abc import Callable

NAMES = {
    "quotes": "a'b\"c`d",
    "dots": "a.b..c",
    "dollar": "$where",
    "dollar inside": "a$b",
    "NUL": "a\0b",
    "long": "x" * 10_000,
    "confusable": "us\u0435rs",  # a Cyrillic e
    "right to left": "a\u202eb",
    "path": "../../_cluster/settings",
    "pattern": "*",
    "list": "a,b",
    "empty": "",
    "space": " ",
    "line": "a\nb",
    "percent": "%2e%2e%s",
}

ALONE = ("dollar", "path", "pattern", "list", "empty")
"""Those that may mean something else when nothing stands before them."""


def failure(call: Callable[[], object]) -> Exception | None:
    """What is raised, whatever it is: each must be understood."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - see above
        return error
    return None
