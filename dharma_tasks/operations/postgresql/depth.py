"""How deeply a statement may be nested.

Beyond some 20,000 levels the parser's own stack ends, and the process with it.
"""

from __future__ import annotations

import postgast
from postgast import pg_query_pb2

__all__ = ["too_deep"]

LEVELS = 10_000
"""What the server takes is less: its `max_stack_depth` is 2 MB."""

_NAMES = {number: name for name, number in pg_query_pb2.Token.items()}
_VALUES = {
    "FCONST",
    "ICONST",
    "SCONST",
    "USCONST",
    "BCONST",
    "XCONST",
    "NULL_P",
    "TRUE_P",
    "FALSE_P",
}
_FLAT = {*_VALUES, "IDENT", "UIDENT", "ASCII_46", "DEFAULT", "SQL_COMMENT", "C_COMMENT"}
_LASTING = {"UNION", "INTERSECT", "EXCEPT"}
_OPEN = {"ASCII_40", "ASCII_91"}
_CLOSE = {"ASCII_41", "ASCII_93"}
_COMMA, _SEMICOLON = "ASCII_44", "ASCII_59"


class _Level:
    """What stands in one pair of brackets: the words since its last comma, and in all of it."""

    def __init__(self) -> None:
        self.words = self.lasting = self.below = self.most = 0

    def depth(self) -> int:
        return max(self.most, self.words + self.below) + self.lasting

    def comma(self) -> None:
        self.most = max(self.most, self.words + self.below)
        self.words = self.below = 0


def too_deep(sql: str) -> int | None:
    """Where, in bytes, a statement may become deeper than the parser bears; None: nowhere.

    Each word that is neither a name nor a value counts as a level, up to the next comma.

    Raises:
        postgast.PgQueryError: a string or a comment does not end.
    """
    if len(sql) <= LEVELS:  # a level has a character at least
        return None
    levels = [_Level()]
    for token in postgast.scan(sql).tokens:
        name = _NAMES.get(token.token, "")
        here = levels[-1]
        if name in _OPEN:
            levels.append(_Level())
        elif name in _CLOSE and len(levels) > 1:
            levels.pop()
            levels[-1].below = max(levels[-1].below, here.depth() + 1)
        elif name == _COMMA:
            here.comma()
        elif name == _SEMICOLON:
            levels = [_Level()]
        elif name in _LASTING:
            here.lasting += 1
        elif name not in _FLAT:
            here.words += 1
        if levels[-1].depth() > LEVELS:
            return int(token.start)
    return None
