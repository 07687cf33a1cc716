"""Numbers and times as people read them."""

from __future__ import annotations

_MINUTE = 60
_HOUR = 3600
_TENTHS_BELOW = 10
_THOUSAND = 1000


def duration(seconds: float) -> str:
    """A time span in seconds, in two units at most: `0.04 s`, `1.3 s`, `42 s`, `3 min 05 s`."""
    seconds = max(seconds, 0)
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _TENTHS_BELOW:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // _HOUR:,} h {whole % _HOUR // 60:02} min"


def amount(done: int, total: int | None) -> str:
    """How much is done: `61,000 of 100,000`."""
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def rate(per_second: float) -> str:
    """Documents, rows or statements a second: `31,200/s`."""
    return f"{per_second:,.0f}/s" if per_second >= _TENTHS_BELOW else f"{per_second:.1f}/s"


def left(done: int, total: int | None, per_second: float) -> str | None:
    """The time left at this rate, None where nobody can tell."""
    if total is None or per_second <= 0 or done > total:
        return None
    return f"{duration((total - done) / per_second)} left"


def progress(done: int, total: int | None, per_second: float) -> list[str]:
    """Done and total, the rate, and the time left, as far as they are known."""
    if not done and total is None:
        return []
    found = [amount(done, total)]
    if per_second > 0:
        found.append(rate(per_second))
    if remaining := left(done, total, per_second):
        found.append(remaining)
    return found


def size(count: float) -> str:
    """Bytes: `850 kB`, `1.3 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < _THOUSAND or unit == "TB":
            break
        count /= _THOUSAND
    return (
        f"{count:.1f} {unit}" if unit != "B" and count < _TENTHS_BELOW else f"{count:,.0f} {unit}"
    )


def several(count: int, one: str) -> str:
    """`1 migration`, `7 migrations`."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def first_line(text: str) -> str:
    """The first line that says something, for places where one line is all there is."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
