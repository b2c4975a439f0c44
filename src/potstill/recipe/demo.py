"""The recipe of `potstill demo`: starters/demo.toml, with as many tokens as this machine reads in the demo's time."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from potstill.recipe.decode import load_recipe
from potstill.recipe.schema import Recipe

# Two cores with fast bf16 did this many operations a second when the demo was timed; a slower machine reads fewer tokens.
_TIMED_AT = 8e11
_LEAST, _MOST = 0.1, 1.0


def demo_recipe(out: Path) -> Recipe:
    """The recipe the folder was begun with, or a new one that fits this machine."""
    if (out / "recipe.toml").exists():
        return load_recipe(out / "recipe.toml")
    from potstill.models import faster_dtype, matmul_speed

    share = min(_MOST, max(_LEAST, matmul_speed("cpu", faster_dtype("cpu")) / _TIMED_AT))
    with as_file(files("potstill.recipe").joinpath("starters", "demo.toml")) as path:
        full = load_recipe(path)
        assert full.training.tokens is not None
        tokens = round(share * full.training.tokens, -4)
        return load_recipe(path, sets=[f"training.tokens={tokens}"])
