"""teacher.tensor_parallel: what it decodes to, what it doesn't go with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.errors import RecipeError
from potstill.recipe import build_job, build_settings, load_recipe
from potstill.recipe.planning import build_workload

RECIPE = """
[teacher]
model = "pocket"
[student]
kind = "copy_layers"
layers = 2
[data]
source = "standard-library"
[training]
steps = 10
length = 128
"""
SHARED = "teacher.tensor_parallel=true"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(("words", "wanted"), [("true", True), ("false", False), ("2", 2)])
def test_training_is_told(file, words, wanted):
    assert load_recipe(file).teacher.tensor_parallel is False
    recipe = load_recipe(file, sets=[f"teacher.tensor_parallel={words}"])
    assert recipe.teacher.tensor_parallel is wanted
    settings = build_settings(
        recipe.training, steps=10, dtype=torch.float32, tensor_parallel=recipe.teacher.tensor_parallel
    )
    assert settings.tensor_parallel is wanted


@pytest.mark.parametrize("found", ["1", "0", "-2", "2.0", '"all"', "[2]"])
def test_what_is_no_number_of_processes_is_refused(file, found):
    with pytest.raises(RecipeError, match=r"needs true \(all processes\), false, or how many .* at least 2"):
        load_recipe(file, sets=[f"teacher.tensor_parallel={found}"])


@pytest.mark.parametrize(("sets", "what"), [
    (['teacher.kind="stored"'], "labels on disk need no teacher"),
    (['teacher.kind="translated"'], "a teacher of another tokenizer"),
    (["teacher.average={}", "loss.alpha=0.5"], r"the student's average marks \(teacher.average\)"),
    (['teacher.mixture={others=[{model="b"}], by="column"}'], "each process asks other teachers"),
    (['teacher.mixture={others=[{model="b"}], one_at_a_time=true}'], "label one at a time"),
    (['loss.attention.kind="relations"'], "each process has some of the attention heads"),
    (["training.on_policy.teacher_share=0.5", "loss.alpha=1.0"], "a teacher that writes along"),
    (['student={kind="search", max_parameters=1000}'], "a search is one process's work"),
])  # fmt: skip
def test_what_it_does_not_go_with_is_refused(file, sets, what):
    load_recipe(file, sets=[one for one in sets if "search" not in one])
    with pytest.raises(RecipeError, match=what):
        load_recipe(file, sets=[SHARED, *sets])


def test_a_process_alone_is_refused_before_anything_is_written(file, tmp_path):
    with pytest.raises(RecipeError, match="divides the teacher among processes, and there is one"):
        build_job(load_recipe(file, sets=[SHARED]), tmp_path / "run", say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_plan_is_of_processes_that_can_share_it(file):
    recipe = load_recipe(file, sets=[SHARED])
    assert build_workload(recipe, tokens=10**6, count=2, say=lambda _: None).tensor_parallel is True
    with pytest.raises(RecipeError, match="there is one"):
        build_workload(recipe, tokens=10**6, say=lambda _: None)
    pairs = load_recipe(file, sets=["teacher.tensor_parallel=2"])
    assert build_workload(pairs, tokens=10**6, count=6, say=lambda _: None).together(6) == 2
    with pytest.raises(RecipeError, match="5 processes don't make groups of 2"):
        build_workload(pairs, tokens=10**6, count=5, say=lambda _: None)
