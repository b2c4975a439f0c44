"""[loss.annealing] and [teacher.gate]: what they decode to, what they don't go with."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import RecipeError
from potstill.recipe import load_recipe, recipe_toml
from potstill.recipe.specialists import build_annealing
from potstill.recipe.staging import plan_stages, recipe_of_stage
from potstill.training import Annealing

RECIPE = """
[teacher]
model = "big"
[student]
kind = "copy_layers"
layers = 4
[data]
source = "notes.txt"
[training]
steps = 10
length = 128
"""
ANNEALED, GATED = "loss.annealing.to=0.0", 'teacher.gate.then="anneal"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_left_out_there_is_none_of_it(file):
    recipe = load_recipe(file)
    assert (recipe.loss.annealing, recipe.teacher.gate) == (None, None)
    assert build_annealing(recipe.loss) is None


def test_an_empty_table_goes_from_the_teacher_to_the_text_over_the_whole_run(file):
    recipe = load_recipe(file, sets=["loss.annealing={}", "teacher.gate={}"])
    assert build_annealing(recipe.loss) == Annealing(to=0.0, over=1.0)
    assert recipe.teacher.gate is not None
    assert (recipe.teacher.gate.then, recipe.teacher.gate.share) == ("warn", 0.1)
    again = file.with_name("again.toml")
    again.write_text(recipe_toml(recipe))
    assert load_recipe(again).model_dump(exclude={"name"}) == recipe.model_dump(exclude={"name"})


@pytest.mark.parametrize(("sets", "what"), [
    ([ANNEALED, "training.on_policy={}"], "training.on_policy"),
    ([ANNEALED, "training.compile_loss=true"], "training.compile_loss"),
    (["loss.annealing.to=1.5"], "loss.annealing.to"),
    (["loss.annealing.over=0.0"], "loss.annealing.over"),
    (["loss.annealing.form=1"], "loss.annealing.form"),
    ([GATED, "loss.alpha=0.0"], "no teacher is heard"),
    ([ANNEALED, "loss.alpha=0.0", "evaluation.smoothing=true"], "evaluation.smoothing"),
    ([GATED, 'teacher.kind="translated"'], "another tokenizer"),
    ([GATED, "teacher.correction.tokens=100"], "teacher.correction"),
    ([GATED, "data.search=0.0"], "data.search = 0"),
    ([GATED, "training.on_policy={}"], "training.on_policy"),
    ([GATED, "training.compile_loss=true"], "training.compile_loss"),
    ([GATED, 'stages.kind="generations"'], "stages"),
    (['teacher.gate.then="ask"'], "teacher.gate.then"),
    (["teacher.gate.share=0.0"], "teacher.gate.share"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_and_named(file, sets, what):
    with pytest.raises(RecipeError) as error:
        load_recipe(file, sets=sets)
    assert what in str(error.value)


def test_a_search_does_not_anneal(file, tmp_path):
    searching = tmp_path / "search.toml"
    searching.write_text(RECIPE.replace('kind = "copy_layers"\nlayers = 4', 'kind = "search"'))
    for one in (ANNEALED, GATED):
        with pytest.raises(RecipeError, match="search"):
            load_recipe(searching, sets=[one])


def test_what_needed_an_alpha_below_1_takes_one_that_falls(file):
    with pytest.raises(RecipeError, match="nothing to learn"):
        load_recipe(file, sets=["teacher.average.decay=0.9"])
    with pytest.raises(RecipeError, match="nothing to learn"):
        load_recipe(file, sets=["teacher.average.decay=0.9", "loss.annealing.to=1.0"])
    assert load_recipe(file, sets=["teacher.average.decay=0.9", ANNEALED]).loss.annealing is not None


def test_stages_that_learn_from_labels_hear_no_teacher_at_any_step(file):
    recipe = load_recipe(file, sets=["loss.annealing.to=0.5", 'stages.kind="generations"'])
    first, second = (recipe_of_stage(recipe, stage, Path("out")) for stage in plan_stages(recipe, 0)[:2])
    assert (first.loss.alpha, first.loss.annealing) == (0.0, None)
    assert second.loss.annealing is not None
