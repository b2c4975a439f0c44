"""What a release promises, a line each: names and how they are called, verbs and their options, keys of recipes.

    .venv/bin/python tools/public_api.py > tests/public_api.txt        (a test holds the program to this file)

A line that goes is a break, a line that comes is a promise: both belong in CHANGELOG.md.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from functools import cached_property

import typer

import potstill
from potstill.cli.app import app
from potstill.recipe import json_schema


def call_of(thing: object) -> str:
    """Parameters without their types; a default is told as `=...`, for its value may move."""
    told = []
    for one in inspect.signature(thing).parameters.values():  # type: ignore[arg-type]
        if one.kind is one.KEYWORD_ONLY and "*" not in told and not any(word.startswith("*") for word in told):
            told.append("*")
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        told.append(f"{stars}{one.name}{'' if one.default is one.empty else '=...'}")
    return f"({', '.join(told)})"


def of_class(name: str, thing: type) -> Iterator[str]:
    is_protocol = getattr(thing, "_is_protocol", False)
    yield f"{name}{'' if is_protocol or issubclass(thing, Exception) else call_of(thing)}"
    fields = {one.name for one in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    for member, value in sorted(vars(thing).items()):
        if member.startswith("_") or member in fields:
            continue
        if isinstance(value, property | cached_property):
            yield f"{name}.{member}"
        elif inspect.isroutine(
            inspect.unwrap(value.__func__ if isinstance(value, classmethod | staticmethod) else value)
        ):
            yield f"{name}.{member}{call_of(getattr(thing, member))}"


def names() -> Iterator[str]:
    for name in sorted(potstill.__all__):
        thing = getattr(potstill, name)
        if inspect.isclass(thing):
            yield from of_class(f"potstill.{name}", thing)
        elif callable(thing):
            yield f"potstill.{name}{call_of(thing)}"
        else:
            yield f"potstill.{name}"


def verbs() -> Iterator[str]:
    for verb, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        yield f"potstill {verb}"
        for one in command.params:
            words = "/".join(sorted([*one.opts, *one.secondary_opts], key=lambda word: (-len(word), word)))
            yield f"potstill {verb} {words if words.startswith('-') else one.name.upper()}"


def keys() -> Iterator[str]:
    """The keys of each table."""
    schema = json_schema()
    tables = {"": schema} | schema["$defs"]  # type: ignore[operator]
    for table, told in sorted(tables.items()):
        for key in sorted(told.get("properties", {})):
            yield f"recipe {table or 'Recipe'}.{key}"


def listing() -> list[str]:
    return [*names(), *verbs(), *keys()]


if __name__ == "__main__":
    print(*listing(), sep="\n")
