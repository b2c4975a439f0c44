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


@pytest.mark.parametrize("is_shared", [True, False])
def test_training_is_told(file, is_shared):
    recipe = load_recipe(file, sets=[SHARED] if is_shared else [])
    assert recipe.teacher.tensor_parallel is is_shared
    settings = build_settings(
        recipe.training, steps=10, dtype=torch.float32, tensor_parallel=recipe.teacher.tensor_parallel
    )
    assert settings.tensor_parallel is is_shared


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
    assert build_workload(recipe, tokens=10**6, count=2, say=lambda _: None).is_tensor_parallel
    with pytest.raises(RecipeError, match="there is one"):
        build_workload(recipe, tokens=10**6, say=lambda _: None)
