"""The recipe of `potstill demo`: starters/demo.toml, with as many tokens as this machine reads in the demo's time."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from potstill.recipe.decode import load_recipe
from potstill.recipe.schema import Recipe

# A machine whose matmuls do this many operations a second reads the whole demo in its time; a slower one reads fewer tokens.
_TIMED_AT = 2e11
_LEAST, _MOST = 0.25, 1.0
_LOOKS = 8  # a cold or busy machine looks slower than it is, never faster


def demo_recipe(out: Path) -> Recipe:
    """The recipe the folder was begun with, or a new one that fits this machine."""
    if (out / "recipe.toml").exists():
        return load_recipe(out / "recipe.toml")
    from potstill.models import faster_dtype, matmul_speed

    fastest = max(matmul_speed("cpu", faster_dtype("cpu")) for _ in range(_LOOKS))
    share = min(_MOST, max(_LEAST, fastest / _TIMED_AT))
    with as_file(files("potstill.recipe").joinpath("starters", "demo.toml")) as path:
        full = load_recipe(path)
        assert full.training.tokens is not None
        tokens = int(round(share * full.training.tokens, -4))
        return load_recipe(path, sets=[f"training.tokens={tokens}"])
