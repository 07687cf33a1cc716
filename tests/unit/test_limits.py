"""Windows on the clocks of a time zone, also in the nights in which these are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dharma_tasks.limits import Window

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    """A moment."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "zone", "at", "opens"),
    [
        ("01:00-05:00", "UTC", "2026-01-10 00:59:59", "2026-01-10 01:00"),
        ("01:00-05:00", "UTC", "2026-01-10 01:00", None),
        ("01:00-05:00", "UTC", "2026-01-10 04:59:59", None),
        ("01:00-05:00", "UTC", "2026-01-10 05:00", "2026-01-11 01:00"),
        # Over midnight.
        ("22:00-04:00", "UTC", "2026-01-10 23:00", None),
        ("22:00-04:00", "UTC", "2026-01-10 03:00", None),
        ("22:00-04:00", "UTC", "2026-01-10 04:00", "2026-01-10 22:00"),
        # On other clocks, at another date there.
        ("01:00-05:00", BERLIN, "2026-01-10 00:30", None),
        ("01:00-05:00", "Asia/Kolkata", "2026-01-10 19:29", "2026-01-10 19:30"),
        # The clocks go from 2 to 3: a window between the two does not come that night.
        ("02:10-02:50", BERLIN, "2026-03-29 00:00", "2026-03-30 00:10"),
        ("02:30-04:00", BERLIN, "2026-03-29 00:00", "2026-03-29 01:00"),
        # And from 3 back to 2: it comes twice.
        ("02:10-02:50", BERLIN, "2026-10-25 00:05", "2026-10-25 00:10"),
        ("02:10-02:50", BERLIN, "2026-10-25 00:55", "2026-10-25 01:10"),
        ("03:00-05:00", BERLIN, "2026-10-25 01:59", "2026-10-25 02:00"),
        # To the second.
        ("01:00:07-01:00:09", "UTC", "2026-01-10 01:00:06", "2026-01-10 01:00:07"),
        ("01:00:07-01:00:09", "UTC", "2026-01-10 01:00:09", "2026-01-11 01:00:07"),
    ],
)
def test_when_it_is_open(window: str, zone: str, at: str, opens: str | None) -> None:
    """And when it opens again."""
    found, moment = Window.parse(window, zone), utc(at)
    assert found.is_open(moment) is (opens is None)
    if opens:
        then = found.opens(moment).astimezone(UTC)
        assert then == utc(opens)
        assert found.is_open(then)
        assert not found.is_open(then - timedelta(microseconds=1))


@pytest.mark.parametrize("text", ["", "01:00", "1-5", "05:00-05:00", "01:00-25:00", "a-b-c"])
def test_what_is_no_window(text: str) -> None:
    """It says how one is written."""
    with pytest.raises(ValueError, match="write 01:00-05:00"):
        Window.parse(text, "UTC")


@pytest.mark.parametrize("zone", ["Berlin", "", "../etc/passwd"])
def test_what_is_no_zone(zone: str) -> None:
    """It says how one is written."""
    with pytest.raises(ValueError, match="Europe/Berlin"):
        Window.parse("01:00-05:00", zone)


def test_as_people_read_it() -> None:
    """With its zone; seconds only where there are any."""
    assert str(Window.parse("1:00-05:00".rjust(11, "0"), BERLIN)) == f"01:00-05:00 ({BERLIN})"
    assert str(Window.parse("01:00:07-05:00", "UTC")) == "01:00:07-05:00 (UTC)"
