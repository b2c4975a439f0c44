"""Recipe -> TOML, every setting written out, one a line; and the JSON schema editors complete from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from potstill.recipe.schema import Recipe

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def recipe_toml(recipe: Recipe) -> str:
    """The resolved recipe: what was left out stands there with its default. Decoding it gives the same recipe."""
    return "\n".join(_table(recipe.model_dump(exclude_none=True), ())).lstrip("\n") + "\n"


def json_schema() -> dict[str, object]:
    """The JSON schema of a recipe, with descriptions, ranges and defaults."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _table(table: Mapping[str, object], path: tuple[str, ...]) -> Iterator[str]:
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if path and (len(inner) < len(table) or not table):
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
    for key, value in table.items():
        if key not in inner:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        yield from _table(value, (*path, key))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():  # in a list: tables of their own are written by _table
            return f"{{ {', '.join(f'{_key(str(key))} = {_value(inner)}' for key, inner in value.items())} }}"
        case _:
            raise TypeError(f"a recipe holds no {type(value).__name__}")


def _text(text: str) -> str:
    # JSON's strings are TOML's basic strings, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
