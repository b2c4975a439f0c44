"""Encoders from the command line: a masked language model by DistilBERT's recipe, a classifier, a pruned student; and their mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import Workshop
from tiny_encoders import CLASSES, WORDS, tiny_encoder, word_tokenizer
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from potstill.recipe import starter_recipes

RECIPE = """
[teacher]
model = "teacher"

[student]
kind = "copy_layers"
layers = 2

[data]
source = "text.jsonl"
held_out = 0.3

[loss]
alpha = 0.7
temperature = 2.0

[loss.hidden]
kind = "cosine"
weight = 0.14
layers = "lineage"

[training]
steps = 4
length = 16
rows = 4
checkpoint_every = 2
"""


def set_up(workshop: Workshop, task: str) -> None:
    folder = workshop.path / "encoder"
    tiny_encoder("bert", task=task).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    draw = np.random.default_rng(0)
    records = [{"text": " ".join(draw.choice(WORDS, 12)), "label": CLASSES[n % 3]} for n in range(40)]
    (workshop.path / "words.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = RECIPE.replace('"teacher"', '"encoder"').replace("text.jsonl", "words.jsonl")
    (workshop.path / "encoder.toml").write_text(recipe)


@pytest.mark.parametrize("task", ["masked", "classes"])
def test_a_teacher_with_its_student(workshop: Workshop, task: str):
    set_up(workshop, task)
    checked = workshop.run("check", "encoder.toml")
    assert checked.exit_code == 0, checked.output
    result = workshop.run("distill", "encoder.toml", "--out", "run")
    assert result.exit_code == 0, result.output
    kind = AutoModelForMaskedLM if task == "masked" else AutoModelForSequenceClassification
    assert kind.__name__ in result.output
    student = kind.from_pretrained(workshop.path / "run" / "student")
    assert student.config.num_hidden_layers == 2
    steps = [json.loads(line) for line in (workshop.path / "run" / "steps.jsonl").read_text().splitlines()]
    assert all(0 < step["parts"]["hidden"] < 2 for step in steps)
    scores = json.loads((workshop.path / "run" / "scores.json").read_text())
    assert set(scores["models"]) == {"teacher", "untouched", "hard_labels", "distilled"}
    assert (workshop.path / "run" / "report.html").exists()
    lineage = json.loads((workshop.path / "run" / "lineage.json").read_text())
    assert lineage["layers"] == [0, 3]
    if task == "classes":
        names = set(student.config.label2id)
        assert names == set(CLASSES)
    judged = workshop.run("evaluate", "run/student", "--data", "words.jsonl", "--teacher", "encoder", "--length", "16")
    assert judged.exit_code == 0, judged.output


def test_a_pruned_encoder(workshop: Workshop):
    set_up(workshop, "masked")
    sets = ("--set", 'student={kind="prune", ffn=24, layers=2, choose="one_by_one"}', "--out", "pruned")
    result = workshop.run("distill", "encoder.toml", *sets)
    assert result.exit_code == 0, result.output
    student = AutoModelForMaskedLM.from_pretrained(workshop.path / "pruned" / "student")
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (2, 24)


def test_mistakes_with_encoders(workshop: Workshop):
    set_up(workshop, "classes")
    for name, label in (("strange", "hungry"), ("empty", None)):
        record = json.dumps({"text": "good it is", **({} if label is None else {"label": label})})
        (workshop.path / f"{name}.jsonl").write_text("".join(record.replace("it", f"w{n}") + "\n" for n in range(20)))
    for words, message in (
        (("data.source=strange.jsonl",), "'hungry', and the model knows negative, neutral, positive"),
        (("data.source=empty.jsonl",), "have no class"),
        (("teacher.kind=stored",), "stored labels"),
        (('student={kind="model", model="teacher"}',), "don't predict the same kind of thing"),
        (("loss.hidden.layers=[[0, 9]]",), "no layers of a student of 2 and a teacher of 4"),
        (('student={kind="fresh", changes={hidden_size=16}}', "loss.hidden.layers=last"), "width 16"),
    ):
        sets = [part for word in words for part in ("--set", word)]
        assert message in workshop.refused("distill", "encoder.toml", *sets, "--out", "wrong"), words


def test_encoders_have_no_stored_labels(workshop: Workshop):
    set_up(workshop, "masked")
    assert "causal language models alone" in workshop.refused("label", "encoder.toml", "--out", "labels")


def test_starters_for_encoders_decode():
    assert {"distilbert", "classifier"} <= {starter.name for starter in starter_recipes()}
