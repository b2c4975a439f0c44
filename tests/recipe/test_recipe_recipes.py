"""The recipes in the repository: each decodes, and says what it says."""

from pathlib import Path

import pytest

from potstill.recipe import load_recipe, recipe_toml, starter_recipes

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_decodes_and_begins_with_what_it_is_for(path: Path):
    assert load_recipe(path).name == path.stem
    first = path.read_text("utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert "control = false" not in recipe_toml(load_recipe(path)), "a comparison without its control"


def test_there_are_recipes():
    assert RECIPES
    assert {starter.name for starter in starter_recipes()} >= {"demo", "distill"}
