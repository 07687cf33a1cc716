"""How a run's bulk work is held back: how fast it may go, and at what time of day."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

_LOOKED_AHEAD = timedelta(hours=49)
"""A change of the clocks may swallow a window, but not that of the next day too."""


class Window(BaseModel):
    """A part of the day, on the clocks of a time zone. It may go over midnight.

    Its ends are what the clocks show: in the night in which they are put back, a window may be open
    twice, and in that in which they are put forward it may be shorter, or not come at all.
    """

    model_config = ConfigDict(frozen=True)

    start: time
    end: time
    timezone: str

    @classmethod
    def parse(cls, text: str, timezone: str) -> Window:
        """Make it from `01:00-05:00`.

        Raises:
            ValueError: it is no such text, or there is no such time zone.
        """
        try:
            zone = ZoneInfo(timezone)
        except (KeyError, ValueError, OSError):
            msg = f"there is no time zone {timezone!r}: write one such as Europe/Berlin"
            raise ValueError(msg) from None
        try:
            start, end = (time.fromisoformat(part.strip()) for part in text.split("-"))
        except ValueError:
            start = end = time(0)
        if start == end or start.tzinfo or end.tzinfo:
            msg = f"{text!r} is no part of the day: write 01:00-05:00, or 22:00-04:00"
            raise ValueError(msg)
        return cls(start=start, end=end, timezone=zone.key)

    def is_open(self, at: datetime) -> bool:
        """Whether it is open at this moment."""
        now = at.astimezone(ZoneInfo(self.timezone)).time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def opens(self, after: datetime) -> datetime:
        """When it is open again that is closed now, in its own time zone."""
        # Minute by minute: clocks are put forward and back by whole ones, at whole ones.
        local = after.astimezone(ZoneInfo(self.timezone))
        at = local.replace(second=self.start.second, microsecond=self.start.microsecond)
        last = after + _LOOKED_AHEAD
        at = at.astimezone(UTC)
        while at <= after or (not self.is_open(at) and at < last):
            at += timedelta(minutes=1)
        return at.astimezone(ZoneInfo(self.timezone))

    def __str__(self) -> str:
        return f"{_short(self.start)}-{_short(self.end)} ({self.timezone})"


def _short(at: time) -> str:
    return at.isoformat("auto") if at.second or at.microsecond else at.isoformat("minutes")


class Limits(BaseModel):
    """What a submit asks for all bulk work of its run.

    `max_rate` is documents or rows a second; outside of the `window` bulk work rests.
    """

    model_config = ConfigDict(frozen=True)

    max_rate: float | None = None
    window: Window | None = None
