"""The examples at the end of a command's help."""

from __future__ import annotations

__all__ = ["examples"]


def examples(*commands: str) -> str:
    """The end of a command's help; a test runs each of them as far as its options go."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])
