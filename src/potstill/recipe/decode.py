"""TOML -> Recipe: reading the file, changing settings from the command line, and refusing what can't be meant."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from pydantic_core import ValidationError

from potstill.errors import RecipeError
from potstill.recipe.mistakes import did_you_mean, explain
from potstill.recipe.schema import LENGTHS_OF_TRAINING, Recipe
from potstill.recipe.teaching import sharing

AnyRecipe = TypeVar("AnyRecipe", bound=BaseModel)
_SETTING = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# What ships with potstill or Python goes by a word: no path is meant, even where a folder has that name.
_WORDS = ("pocket", "standard-library")
# A value that begins like this was meant as TOML: a slip in it is a mistake, not a bare word.
_TOML_OPENERS = ('"', "'", "[", "{")


def load_recipe(path: Path | str, *, sets: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, with settings changed as in `--set training.rows=8`.

    The value of a `set` is TOML, or a bare word taken as text. Setting one of tokens, steps and epochs takes the place of the
    one in the file. Paths inside a recipe are relative to the current directory. Raises RecipeError naming every mistake.
    """
    path = Path(path)
    table, shown_as = read_tables(path, sets)
    _drop_replaced_lengths_(table, sets)
    recipe = decode(table, source=shown_as)
    sources = (recipe.data.source,) if isinstance(recipe.data.source, str) else recipe.data.source
    places = [("teacher.model", recipe.teacher.model), *(("data.source", source) for source in sources)]
    if recipe.student.kind == "model":
        places.append(("student.model", recipe.student.model))
    places += [("teacher.mixture.others", other.model) for other in sharing(recipe.teacher)]
    refuse_paths_beside(places, path)
    return recipe


def read_tables(path: Path, sets: Sequence[str], *, shows_values: bool = True) -> tuple[dict[str, object], str]:
    """(the tables of a TOML file with settings changed, what to call them in an error). Without a name of its own, the file's.

    `shows_values`: whether errors show what settings were changed to; not where a key or a password could be among them.
    """
    table = _parse(_read(path), str(path))
    for setting in sets:
        _apply_(table, setting)
    changed = " ".join(f"--set {one if shows_values else one.partition('=')[0].strip()}" for one in sets)
    shown_as = f"{path} with {changed}" if sets else str(path)
    return {"name": path.stem.lstrip(".") or "recipe", **table}, shown_as


def decode_with(mapping: Mapping[str, object], sets: Sequence[str], *, source: str) -> Recipe:
    """The same from plain tables, with settings changed as in `load_recipe`."""
    table = deepcopy(dict(mapping))
    for setting in sets:
        _apply_(table, setting)
    _drop_replaced_lengths_(table, sets)
    return decode(table, source=source)


def decode(mapping: Mapping[str, object], *, source: str = "recipe") -> Recipe:
    """A recipe from plain tables; `source` names them in the RecipeError that lists every mistake."""
    return decode_as(Recipe, mapping, source=source)


def decode_as(kind: type[AnyRecipe], mapping: Mapping[str, object], *, source: str) -> AnyRecipe:
    """The same for a recipe of any class."""
    try:
        recipe = kind.model_validate(dict(mapping))
        if isinstance(recipe, Recipe) and recipe.stages is not None:
            from potstill.recipe.staging import check_stages

            check_stages(recipe)
        return recipe
    except ValidationError as error:
        lines = explain(error, kind)
    if len(lines) == 1:
        raise RecipeError(f"{source}: {lines[0]}")
    raise RecipeError(f"{source} has {len(lines)} mistakes:\n" + "\n".join(f"  {line}" for line in lines))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}: {_nearby(path)}") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder, and a recipe is a TOML file: {_nearby(path / 'recipe.toml')}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}): a recipe is a TOML file"
        ) from None
    except OSError as error:
        raise RecipeError(f"{path} can't be read: {error.strerror or error}") from error


def _nearby(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    # By their stems: the ending that all have makes any two names alike.
    if (close := did_you_mean(path.stem, [name.removesuffix(".toml") for name in names])) is not None:
        return f"did you mean {path.parent / close}.toml?"
    if names:
        return f"{path.parent} has {', '.join(names[:8])}"
    return "`potstill recipes` lists and writes recipes to start from"


def _parse(text: str, source: str) -> dict[str, object]:
    try:
        found = tomllib.loads(text)
        _check_integers(found, source)
        return found
    except tomllib.TOMLDecodeError as error:
        message = str(error)
    except RecursionError:
        raise RecipeError(
            f"{source} is not TOML that a recipe needs: brackets within brackets, hundreds deep"
        ) from None
    if (place := re.search(r"line (\d+), column (\d+)", message)) is None:
        raise RecipeError(f"{source} is not TOML: {message}. Is a bracket or a quote still open?")
    line, column = text.split("\n")[int(place[1]) - 1], int(place[2])
    reason = message.partition(" (at")[0]
    raise RecipeError(
        f"{source}, line {place[1]}, column {column}: this is not TOML: {reason}\n  {line.rstrip()}\n  {' ' * (column - 1)}^"
    )


def _check_integers(found: object, source: str) -> None:
    """Of 64 bits, as TOML has them: Python reads any, and no length or seed is larger."""
    match found:
        case dict():
            for inner in found.values():
                _check_integers(inner, source)
        case list():
            for inner in found:
                _check_integers(inner, source)
        case int() if abs(found) >= 2**63:
            raise RecipeError(f"{source}: the number {str(found)[:20]}... is too large: TOML's integers have 64 bits")


def _apply_(table: dict[str, object], setting: str) -> None:
    """Change one setting of the tables in place."""
    name, equals, value = setting.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not value or not _SETTING.fullmatch(name):
        raise RecipeError(f"--set {setting}: needs a name and a value, as --set training.rows=8")
    *outer, last = name.split(".")
    inside = table
    for depth, key in enumerate(outer):
        step = inside.setdefault(key, {})
        if not isinstance(step, dict):
            raise RecipeError(
                f"--set {setting}: {'.'.join(outer[: depth + 1])} is {step!r}, which has no settings inside"
            )
        inside = step
    inside[last] = _value(value, setting)


def _value(text: str, setting: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            _check_integers(parsed, f"--set {setting[:60]}")
            return deepcopy(parsed["value"])
    except RecursionError:
        raise RecipeError(f"--set {setting[:60]}...: brackets within brackets, hundreds deep") from None
    except tomllib.TOMLDecodeError as error:
        if text.startswith(_TOML_OPENERS):
            reason = str(error).partition(" (at")[0]
            raise RecipeError(
                f"--set {setting}: the value is not TOML: {reason}. Does the shell eat the quotes?"
            ) from None
    return text


def _drop_replaced_lengths_(table: dict[str, object], sets: Sequence[str]) -> None:
    training = table.get("training")
    given = {setting.partition("=")[0].strip() for setting in sets}
    new = [name for name in LENGTHS_OF_TRAINING if f"training.{name}" in given]
    if isinstance(training, dict) and new:
        for name in set(LENGTHS_OF_TRAINING) - set(new):
            training.pop(name, None)


def refuse_paths_beside(places: Sequence[tuple[str, str]], file: Path) -> None:
    """Raise for a path that is not in the current directory but lies beside the recipe: surely that one is meant."""
    for name, value in places:
        beside = file.parent / value
        if value not in _WORDS and not os.path.exists(value) and os.path.exists(beside):
            raise RecipeError(
                f'{file}: {name}: there is no "{value}" in the current directory, but one beside the recipe; paths start '
                f'from where the command runs: write "{os.path.relpath(beside)}"'
            )
