"""What a command says that does one thing: lines for a person, or one document for a program."""

from __future__ import annotations

import json

import click

from dharma_tasks.migration import JSON

__all__ = ["Talk"]


class Talk:
    """With `json` the lines go to stderr, and stdout gets `document` at the end."""

    def __init__(self, *, json: bool) -> None:
        """Nothing is said yet. `document` is filled in by the command."""
        self._json = json
        self.document: JSON = {}

    def say(self, text: str) -> None:
        """Say it; the document has what was said last."""
        click.echo(text, err=self._json)
        self.document["message"] = text

    def end(self, status: int) -> int:
        """Print the document, if one is wanted. Returns the exit status."""
        if self._json:
            click.echo(json.dumps(self.document | {"exit_status": status}, indent=2))
        return status
