"""Headers on every answer of Flower, its own pages too: nobody frames or guesses them.

Our own pages have stricter ones (`handlers`), which are kept.
"""

from __future__ import annotations

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import OutputTransform

__all__ = ["Headers"]

# Flower's own pages have scripts in them, so their policy is about frames and forms only.
_ALWAYS = {
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class Headers(OutputTransform):
    """What Tornado asks before it sends an answer."""

    def __init__(self, request: HTTPServerRequest) -> None:
        """Nothing depends on the request."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002, FBT001 - Tornado's signature
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Add those that are not there."""
        for name, value in _ALWAYS.items():
            headers.setdefault(name, value)
        return status_code, headers, chunk
