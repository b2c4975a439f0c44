"""Recipes to start from, shipped with the package as starters/*.toml."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from potstill.errors import RecipeError
from potstill.recipe.mistakes import did_you_mean

_ORDER = (
    "demo",
    "distill",
    "minitron",
    "chat",
    "gkd",
    "draft",
    "int4",
    "fresh",
    "distilgpt2",
    "distilbert",
    "classifier",
    "minilm",
    "tinybert",
    "write",
)


@dataclass(frozen=True)
class StarterRecipe:
    """A recipe to start from: its name, one line that describes it, and the TOML with comments that teach."""

    name: str
    description: str
    toml: str


def starter_recipes() -> tuple[StarterRecipe, ...]:
    """All of them, the one that needs nothing first."""
    return tuple(_starter(name) for name in _ORDER)


def write_starter(name: str, path: Path | str) -> Path:
    """Write a starter recipe to a file, or into a folder as NAME.toml; says where. Never overwrites: RecipeError."""
    path = Path(path)
    if name not in _ORDER:
        close = did_you_mean(name, _ORDER)
        hint = f"did you mean {close}?" if close is not None else f"there are {', '.join(_ORDER)}"
        raise RecipeError(f"there is no recipe named {name!r} to start from: {hint}")
    target = path / f"{name}.toml" if path.is_dir() else path
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(_starter(name).toml)
    except FileExistsError:
        raise RecipeError(f"{target} is there already and stays as it is: choose another name") from None
    except OSError as error:
        raise RecipeError(f"{target} can't be written: {error.strerror or error}") from error
    return target


def _starter(name: str) -> StarterRecipe:
    toml = files("potstill.recipe").joinpath("starters", f"{name}.toml").read_text("utf-8")
    return StarterRecipe(name, toml.partition("\n")[0].removeprefix("# "), toml)
