"""Each verb, run as a person would."""

from __future__ import annotations

import json

import pytest
import torch
from commands import Workshop
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import RecipeError
from potstill.recipe import load_recipe


def test_help_lists_every_verb(workshop: Workshop):
    result = workshop.run("--help")
    assert result.exit_code == 0
    for verb in ("demo", "distill", "label", "inspect", "check", "preview", "evaluate", "recipes"):
        assert verb in result.output
    assert workshop.run("--version").output.startswith("potstill 0.")


def test_distill_leaves_a_student_scores_and_a_report(workshop: Workshop):
    result = workshop.run("distill", "recipe.toml")
    assert result.exit_code == 0, result.output
    for said in ("the teacher as its own student", "hard labels, same tokens", "distilled", "KL"):
        assert said in result.output
    run = workshop.path / "runs" / "recipe"
    student = AutoModelForCausalLM.from_pretrained(run / "student")
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    ids = torch.tensor([tokenizer("number").input_ids])
    assert student.generate(ids, max_new_tokens=5, do_sample=False).shape == (1, 11)
    scores = json.loads((run / "scores.json").read_text())
    assert scores["models"].keys() == {"teacher", "untouched", "hard_labels", "distilled"}
    page = (run / "report.html").read_text()
    assert "<svg" in page
    assert "distilled" in page
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["self_check"]["own_loss"] == 0
    assert load_recipe(run / "recipe.toml").training.steps == 4
    again = workshop.run("distill", "recipe.toml")
    assert again.exit_code == 0
    assert json.loads((run / "scores.json").read_text()) == scores


def test_settings_from_outside_count(workshop: Workshop):
    result = workshop.run(
        "distill", "recipe.toml", "--set", "training.steps=2", "--set", "evaluation.control=false", "-o", "x"
    )
    assert result.exit_code == 0, result.output
    assert len((workshop.path / "x" / "steps.jsonl").read_text().splitlines()) == 2
    assert not (workshop.path / "x" / "controls").exists()


def test_check_trains_nothing_and_says_what_would_be(workshop: Workshop):
    result = workshop.run("check", "recipe.toml")
    assert result.exit_code == 0, result.output
    for said in ("learning_rate = 0.001", "teacher", "student", "M parameters", "documents", "memory", "time"):
        assert said in result.output
    assert not (workshop.path / "runs").exists()


def test_check_says_how_often_the_text_is_read(workshop: Workshop):
    few = " ".join(workshop.run("check", "recipe.toml").output.split())
    assert "epochs about" in few
    assert "again and again" not in few
    many = " ".join(workshop.run("check", "recipe.toml", "-s", "training.tokens=5_000_000").output.split())
    assert "the text is read again and again" in many
    assert "training.epochs = 4" in many
    assert "epochs about" not in workshop.run("check", "recipe.toml", "-s", "training.epochs=2").output


def test_check_says_where_the_time_cant_be_told(workshop: Workshop):
    (workshop.path / "long.jsonl").write_text('{"text": "one and the same"}\n' * 201)
    said = workshop.run("check", "recipe.toml", "-s", "training.epochs=2", "-s", "data.source=long.jsonl").output
    assert "time can't be told by the first 200 documents" in " ".join(said.split())
    assert "potstill plan" in said


def test_check_counts_what_it_takes_to_see_what_matters(workshop: Workshop):
    pruned = 'student={kind="prune", to=0.7, tokens=500}'
    assert "(student.tokens)" in workshop.run("check", "recipe.toml", "-s", pruned).output
    assert "(student.tokens)" not in workshop.run("check", "recipe.toml").output


def test_check_prints_nothing_but_the_mistake(workshop: Workshop):
    for change in ("teacher.model=./nothing", "data.source=nothing.jsonl", "training.length=100000"):
        result = workshop.run("check", "recipe.toml", "-s", change)
        assert result.exit_code == 2
        assert result.stdout == "", result.stdout


def test_preview_shows_the_text(workshop: Workshop):
    result = workshop.run("preview", "recipe.toml", "--documents", "2", "--tokens", "500")
    assert result.exit_code == 0, result.output
    assert "number 0 is even." in result.output.replace("\n", "")
    assert "learned" in result.output


def test_evaluate_scores_alone_and_beside_a_teacher(workshop: Workshop):
    alone = workshop.run("evaluate", "teacher", "--data", "text.jsonl", "--length", "24")
    assert alone.exit_code == 0, alone.output
    assert "perplexity" in alone.output
    assert "reading text.jsonl …" in alone.output
    assert "measuring teacher on " in alone.output
    beside = workshop.run("evaluate", "teacher", "-d", "text.jsonl", "-t", "teacher", "--length", "24", "-o", "s.json")
    assert beside.exit_code == 0, beside.output
    assert "keeps 100.0%" in beside.output
    scores = json.loads((workshop.path / "s.json").read_text())["models"]["model"]["scores"]
    assert scores["agreement"]["value"] == 1
    assert scores["kl_to_teacher"]["value"] == pytest.approx(0, abs=1e-6)


def test_recipes_are_listed_written_and_never_overwritten(workshop: Workshop):
    listed = workshop.run("recipes")
    for name in ("demo", "distill", "chat", "fresh", "distilgpt2"):
        assert name in listed.output
    assert workshop.run("recipes", "distill").exit_code == 0
    assert "stays as it is" in workshop.refused("recipes", "distill")
    load_recipe(workshop.path / "distill.toml")
    schema = json.loads(workshop.run("recipes", "--schema").output)
    assert "teacher" in schema["properties"]


def test_a_starter_recipe_is_refused_until_its_paths_are_real(workshop: Workshop):
    workshop.run("recipes", "distill")
    assert "path/to/teacher" in workshop.refused("distill", "distill.toml")
    with pytest.raises(RecipeError):
        load_recipe(workshop.path / "nothing.toml")
