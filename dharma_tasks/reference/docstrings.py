"""The sentences below the fields of a model.

Pydantic can read them itself (`use_attribute_docstrings`), but it would read the sources of every
operation in every command.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel

__all__ = ["of_class", "of_fields"]


def of_fields(model: type[BaseModel]) -> dict[str, str]:
    """By name, what is said of each field that has a sentence below it."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        written = "[" not in each.__name__  # a generic class with its parameter has no source
        if issubclass(each, BaseModel) and each is not BaseModel and written:
            found |= _below(each)
    return {name: text for name, text in found.items() if name in model.model_fields}


def of_class(model: type[BaseModel]) -> str:
    """The first paragraph of its docstring: what it is for a user. The rest is for us."""
    paragraph, _, _ = inspect.cleandoc(model.__doc__ or "").partition("\n\n")
    return " ".join(paragraph.split())


def _below(model: type[BaseModel]) -> dict[str, str]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(node, ast.ClassDef)  # noqa: S101 - the source of a class
    found = {}
    for field, said in zip(node.body, node.body[1:], strict=False):
        match (field, said):
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
            case _:
                pass
    return found
