import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.errors import RecipeError
from potstill.recipe import (
    Recipe,
    WritingRecipe,
    decode,
    json_schema,
    load_recipe,
    recipe_toml,
    starter_recipes,
    write_starter,
)
from potstill.recipe.decode import decode_as

texts = some.text(min_size=1, max_size=12).filter(
    lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)
)
shares = some.floats(0, 1)
students = some.one_of(
    some.fixed_dictionaries(
        {
            "kind": some.just("copy_layers"),
            "layers": some.integers(1, 9),
            "choose": some.sampled_from(["even", "first_last"]),
        }
    ),
    some.fixed_dictionaries({"kind": some.just("copy_layers"), "layers": some.lists(some.integers(0, 9), min_size=1)}),
    some.fixed_dictionaries({"kind": some.just("model"), "model": texts}),
    some.fixed_dictionaries(
        {
            "kind": some.just("fresh"),
            "changes": some.dictionaries(
                texts, some.one_of(some.integers(), some.booleans(), texts, some.lists(some.integers())), min_size=1
            ),
        }
    ),
)
recipes = some.fixed_dictionaries(
    {
        "teacher": some.fixed_dictionaries({"model": texts}),
        "student": students,
        "data": some.fixed_dictionaries({"source": some.one_of(texts, some.lists(texts, min_size=1))}),
        "loss": some.fixed_dictionaries(
            {
                "alpha": shares,
                "temperature": some.floats(1e-300, 1e300),
                "divergence": some.just({"kind": "alpha_beta"}),
            }
        ),
        "training": some.one_of(
            some.fixed_dictionaries({"steps": some.integers(1), "trackers": some.just(["wandb"])}),
            some.fixed_dictionaries({"epochs": some.floats(1e-9, 1e9), "schedule": some.just({"kind": "constant"})}),
        ),
    }
)


@given(recipes)
def test_the_resolved_recipe_decodes_to_itself(tables: dict[str, object]) -> None:
    recipe = decode(tables)
    resolved = recipe_toml(recipe)
    assert decode(tomllib.loads(resolved)) == recipe
    assert recipe_toml(decode(tomllib.loads(resolved))) == resolved


def test_the_resolved_recipe_has_one_setting_a_line_and_leaves_nothing_out() -> None:
    recipe = decode(tomllib.loads(starter_recipes()[1].toml))
    lines = recipe_toml(recipe).splitlines()
    assert "learning_rate = 0.001" in lines
    assert "beta2 = 0.95" in lines
    assert "[loss.divergence]" in lines
    assert not any("{" in line for line in lines)


def _properties(schema: object, path: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties":
                yield from ((f"{path}.{name}", setting) for name, setting in value.items())
            yield from _properties(value, f"{path}.{key}")


def test_every_setting_is_described_in_the_schema() -> None:
    schema = json_schema()
    settings = dict(_properties(schema))
    assert len(settings) > 60
    assert [name for name, setting in settings.items() if not setting.get("description")] == []
    assert json.loads(json.dumps(schema)) == schema
    training = schema["$defs"]["TrainingTable"]  # type: ignore[index]
    assert training["additionalProperties"] is False
    assert {"required": ["tokens"]} in training["oneOf"]
    assert training["properties"]["beta1"]["default"] == 0.9


@pytest.mark.parametrize("starter", starter_recipes(), ids=lambda starter: starter.name)
def test_every_starter_decodes_and_says_what_it_is(starter: object) -> None:
    kind = WritingRecipe if starter.name == "write" else Recipe  # type: ignore[attr-defined]
    assert decode_as(kind, tomllib.loads(starter.toml), source="starter")  # type: ignore[attr-defined]
    assert 20 < len(starter.description) < 140  # type: ignore[attr-defined]
    assert starter.toml.count("#") >= 4  # type: ignore[attr-defined]


def test_every_shipped_starter_is_listed() -> None:
    import potstill.recipe

    shipped = {path.stem for path in (Path(potstill.recipe.__file__).parent / "starters").glob("*.toml")}
    assert shipped == {starter.name for starter in starter_recipes()}


def test_a_starter_is_written_and_never_over_something(tmp_path: Path) -> None:
    path = write_starter("chat", tmp_path)
    assert path == tmp_path / "chat.toml"
    assert load_recipe(path).name == "chat"
    path.write_text("mine")
    for target in (path, tmp_path):
        with pytest.raises(RecipeError, match="stays as it is"):
            write_starter("chat", target)
    assert path.read_text() == "mine"
    assert write_starter("fresh", tmp_path / "other.toml").name == "other.toml"


def test_a_starter_that_cant_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"did you mean distill\?"):
        write_starter("distil", tmp_path)
    with pytest.raises(RecipeError, match="can't be written"):
        write_starter("chat", tmp_path / "nowhere" / "chat.toml")


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    code = "import sys, potstill.recipe; print([m for m in ('torch', 'transformers', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
