"""URLs with a password in them, checked before a driver quotes a part of it as a host or a port."""

from __future__ import annotations

import re

_LAST_PORT = 65_535


def misread(url: str, ends: str = "/?#") -> bool:
    """Whether a part of the password would be taken for something else.

    That is so where a character of it should be a % code, or where no host comes after it. `ends`
    are the characters that end the part with user, password and hosts. What is no URL at all is
    for the driver to refuse.
    """
    found = re.match(rf"[^:/?#]+://([^{ends}]*)(.*)", url, re.DOTALL)
    if found is None:
        return False
    login, _, hosts = found[1].rpartition("@")
    return "@" in login + found[2] or not all(_has_a_port(host) for host in hosts.split(","))


def _has_a_port(host: str) -> bool:
    """Whether what comes after the colon, if there is one, can be a port."""
    port = re.sub(r"^\[.*\]", "", host).rpartition(":")[2] if ":" in host else ""
    return not port or (port.isascii() and port.isdigit() and int(port) <= _LAST_PORT)
