"""A recipe of stages -> the recipes of its stages: who marks, for how long, with which seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import RecipeError
from potstill.recipe import Recipe, decode, recipe_toml
from potstill.recipe.staging import assistants_for, plan_stages, recipe_of_stage
from potstill.recipe.toml import json_schema

OUT = Path("out")
FRESH = {"kind": "fresh", "changes": {"num_hidden_layers": 2}, "seed": 10}


def recipe_with(stages: dict[str, object], **tables: dict[str, object]) -> Recipe:
    return decode(
        {
            "teacher": {"model": "big"},
            "student": FRESH,
            "data": {"source": "x"},
            "training": {"tokens": 1000},
            "stages": stages,
            **tables,
        }
    )


def stages_of(recipe: Recipe, assistants: int = 0) -> dict[str, Recipe]:
    return {stage.name: recipe_of_stage(recipe, stage, OUT) for stage in plan_stages(recipe, assistants)}


def test_each_generation_learns_from_the_one_before():
    found = stages_of(recipe_with({"kind": "generations", "count": 2}, loss={"alpha": 0.5}))
    assert list(found) == ["generation-0", "generation-1", "generation-2", "direct"]
    assert [one.teacher.model for one in found.values()] == [
        "big",
        "out/stages/generation-0/student",
        "out/stages/generation-1/student",
        "big",
    ]
    assert [one.loss.alpha for one in found.values()] == [0.0, 0.5, 0.5, 0.0]
    assert [one.training.tokens for one in found.values()] == [1000, 1000, 1000, 3000]
    assert [one.training.seed for one in found.values()] == [0, 1, 2, 2]
    assert found["generation-0"].student.kind == "fresh"
    # Made from the recipe's own teacher beforehand, whoever marks.
    assert found["generation-1"].student.model_dump() == {"kind": "model", "model": "out/untouched/generation-1"}
    assert [one.evaluation.control for one in found.values()] == [False, False, True, False]


def test_an_ensemble_marks_together():
    asked = {"kind": "ensemble", "copies": 3, "first": "teacher", "of": "logits", "text": ["y"], "longer": 2.0}
    found = stages_of(recipe_with(asked))
    assert list(found) == ["copy-1", "copy-2", "copy-3", "student", "direct"]
    assert len({one.training.seed for one in found.values()}) == 4
    assert [found[f"copy-{n}"].student.model_dump()["seed"] for n in (1, 2, 3)] == [10, 11, 12]
    student = found["student"]
    assert student.teacher.mixture is not None
    assert student.teacher.mixture.of == "logits"
    assert [other.model for other in student.teacher.mixture.others] == [
        "out/stages/copy-2/student",
        "out/stages/copy-3/student",
    ]
    assert student.data.source == ("x", "y")
    assert student.training.tokens == 2000
    assert found["direct"].training.tokens == 5000
    assert found["direct"].loss.alpha == 1.0


def test_listed_stages_differ_in_what_they_say():
    each = [
        {"name": "assistant", "student": {"kind": "prune", "to": 0.5}, "training": {"steps": 4}},
        {"name": "small", "teachers": ["assistant", "teacher"], "weights": [3, 1], "training": {"steps": 6}},
    ]
    found = stages_of(recipe_with({"kind": "listed", "each": each}, training={"tokens": 10, "rows": 3}))
    assert list(found) == ["assistant", "small", "direct"]
    assert found["assistant"].student.model_dump()["to"] == 0.5
    assert (found["assistant"].training.steps, found["assistant"].training.tokens) == (4, None)
    assert found["assistant"].training.rows == 3
    assert found["direct"].training.steps == 10
    mixture = found["small"].teacher.mixture
    assert mixture is not None
    assert (mixture.weight, mixture.others[0].weight, mixture.others[0].model) == (3.0, 1.0, "big")


def test_without_a_gap_a_progressive_recipe_is_the_direct_way():
    found = stages_of(recipe_with({"kind": "progressive"}))
    assert list(found) == ["student"]
    assert found["student"].training.tokens == 1000
    assert found["student"].teacher.model == "big"


@pytest.mark.parametrize(
    ("ratio", "gap", "assistants"),
    [
        (1.0, 10.0, 0),
        (10.0, 10.0, 0),
        (10.1, 10.0, 1),
        (100.0, 10.0, 1),
        (101.0, 10.0, 2),
        (70.0, 2.5, 4),
        (0.5, 10.0, 0),
    ],
)
def test_no_step_is_larger_than_the_gap(ratio, gap, assistants):
    assert assistants_for(ratio, gap) == assistants
    assert ratio ** (1 / (assistants + 1)) <= gap * (1 + 1e-9)


def test_the_resolved_recipe_decodes_to_itself():
    each = [{"name": "one", "loss": {"alpha": 0.5, "divergence": {"kind": "reverse_kl"}}}, {"name": "two"}]
    for stages in ({"kind": "listed", "each": each}, {"kind": "ensemble", "text": ["y"]}, {"kind": "progressive"}):
        import tomllib

        recipe = recipe_with(stages)
        assert decode(tomllib.loads(recipe_toml(recipe))) == recipe
    assert "generations" in str(json_schema())


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"kind": "generation"}, "generations"),
        ({"kind": "listed", "each": [{"name": "a"}, {"name": "a"}]}, "are called 'a'"),
        (
            {"kind": "listed", "each": [{"name": "a", "teachers": ["b"]}]},
            "taught by 'b', and before it there are teacher",
        ),
        ({"kind": "listed", "each": [{"name": "a", "teachers": ["teacher"], "weights": [1, 2]}]}, "2 weights for 1"),
        ({"kind": "listed", "each": [{"name": "a", "training": {"lenght": 3}}]}, r"stage a: training\.lenght"),
        ({"kind": "listed", "each": [{"name": "A b"}]}, "name"),
        (
            {"kind": "listed", "each": [{"name": "a", "training": {"steps": 3}}, {"name": "b"}]},
            "give all lengths in one of them",
        ),
        ({"kind": "ensemble", "copies": 1}, "at least 2"),
    ],
)
def test_stages_that_can_not_be_meant_are_refused(stages, said):
    with pytest.raises(RecipeError, match=said):
        recipe_with(stages)


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"mixture": {"others": []}}, "at least one entry"),
        ({"mixture": {"others": [{"model": "a/big"}]}}, "two teachers are called 'big'"),
        ({"mixture": {"others": [{"model": "b"}]}, "average": {}}, "`mixture` and `average` each say who marks"),
        ({"average": {"decay": 1.0}}, "below 1"),
        ({"average": {}, "kind": "stored"}, "can't be stored beforehand"),
        ({"mixture": {"others": [{"model": "b", "labels": "c"}], "one_at_a_time": True}}, "labels the text itself"),
        ({"mixture": {"others": [{"model": "b"}], "by": "column", "of": "logits"}}, "one teacher a record"),
        ({"mixture": {"others": [{"model": "b", "weight": 0.0}]}}, "above 0"),
        ({"mixture": {"others": [{"model": "b", "weight": 2.0}], "by": "column"}}, "nothing is weighed"),
        ({"mixture": {"others": [{"model": "b", "name": "../../b"}]}}, "a name that a folder can have"),
        ({"mixture": {"others": [{"model": ".."}]}}, "can't be called '..'"),
    ],
)
def test_teachers_that_can_not_be_meant_are_refused(teacher, said):
    with pytest.raises(RecipeError, match=said):
        decode(
            {
                "teacher": {"model": "big"} | teacher,
                "student": FRESH,
                "data": {"source": "x"},
                "training": {"steps": 1},
            }
        )


def test_an_assistant_is_larger_than_its_student_whatever_shape_that_has(monkeypatch):
    """What the student has of its own shape is not the assistant's."""
    monkeypatch.setattr("potstill.recipe.staging._share_of_student", lambda _: 0.25)
    student = {"kind": "prune", "layers": 2, "ffn": 128, "tokens": 77}
    found = stages_of(recipe_with({"kind": "progressive", "direct": False}, student=student), assistants=1)
    assistant = found["assistant-1"].student.model_dump(exclude_none=True)
    assert assistant == {"kind": "prune", "to": 0.5, "tokens": 77}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"teacher": {"model": "big", "kind": "stored"}}, "stages need a teacher that is asked"),
        ({"loss": {"hidden": {}}}, "stage student.*learn from one teacher"),
    ],
)
def test_stages_that_no_run_could_be_made_of_are_refused_before_the_first(tables, said):
    with pytest.raises(RecipeError, match=said):
        recipe_with({"kind": "ensemble", "copies": 2}, **tables)


def test_a_corrected_teacher_marks_alone():
    each = [{"name": "a"}, {"name": "b", "teachers": ["a", "teacher"]}]
    with pytest.raises(RecipeError, match="stage b: a corrected teacher marks alone"):
        recipe_with({"kind": "listed", "each": each}, teacher={"model": "big", "correction": {"tokens": 300}})


def test_a_stage_does_not_learn_through_four_bits():
    each = [{"name": "a", "training": {"int4": {}}}]
    with pytest.raises(RecipeError, match="stage a: students teach one another with the weights behind the grid"):
        recipe_with({"kind": "listed", "each": each})


def test_stages_and_another_way_of_teaching_are_too_much():
    with pytest.raises(RecipeError, match="leave one out"):
        recipe_with({"kind": "generations"}, teacher={"model": "big", "average": {}}, loss={"alpha": 0.5})
    with pytest.raises(RecipeError, match="has no stages"):
        recipe_with(
            {"kind": "generations"},
            student={"kind": "search", "bars": [{"least": 0.9}]},
        )
