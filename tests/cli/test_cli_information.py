"""`potstill information`, run as a person would."""

from __future__ import annotations

import json

import pytest
from commands import Workshop
from test_cli_encoders import set_up
from transformers import AutoConfig, AutoModelForSequenceClassification

WORDS = ("information", "recipe.toml", "--sizes", "2", "--factor", "3", "--seeds", "2")


def test_what_soft_labels_are_worth_is_told_drawn_and_kept(workshop: Workshop):
    result = workshop.run(*WORDS)
    assert result.exit_code == 0, result.output
    for said in (
        "14 trainings",
        "7 with each of 2 seeds",
        "times less text",
        "permuted dark knowledge",
        "bits a token",
    ):
        assert said in result.output
    run = workshop.path / "runs" / "recipe-information"
    names = ("information.json", "information.html", "information.md", "curves.svg")
    first = {name: (run / name).read_bytes() for name in names}
    found = json.loads(first["information.json"])
    assert found["policy"].startswith("each is learned from for as many steps")
    assert {size["steps"] for size in found["sizes"]} == {4}
    assert found["multipliers"]["soft"]["nats_per_token"][-1]["value_in_words"]
    picture = first["curves.svg"].decode()
    assert picture.startswith("<svg ")
    assert "soft labels" in picture
    assert "| learns by |" in first["information.md"].decode()
    again = workshop.run(*WORDS)
    assert again.exit_code == 0, again.output
    for name in ("information.json", "curves.svg"):
        assert (run / name).read_bytes() == first[name]


def test_a_dry_run_trains_nothing(workshop: Workshop):
    result = workshop.run(*WORDS, "--dry-run", "--control", "none", "--set", "training.steps=9")
    assert result.exit_code == 0, result.output
    assert "8 trainings" in result.output
    assert "9 steps" in result.output
    assert not (workshop.path / "runs" / "recipe-information" / "measurements").exists()


def test_stored_labels_have_curves_too(workshop: Workshop):
    assert workshop.run("label", "recipe.toml").exit_code == 0
    result = workshop.run(*WORDS, "--set", "teacher.kind=stored", "--control", "permuted")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--control", "magic"), "there is no control 'magic'"),
        (("--set", "loss.alpha=0"), "loss.alpha is 0"),
        (("--set", "teacher.average.decay=0.9"), "teacher.average"),
        (("--set", "loss.hidden.weight=1"), "loss.hidden"),
        (("--set", "training.int4.group=8"), "training.int4"),
        (("--sizes", "9"), "don't make 9 parts"),
        (("--set", "student.kind=search"), ""),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(workshop: Workshop, more: tuple[str, ...], said: str):
    assert said in workshop.refused(*WORDS, *more)
    assert not (workshop.path / "runs" / "recipe-information" / "measurements").exists()


def test_of_two_classes_none_is_left_to_permute(workshop: Workshop):
    set_up(workshop, "classes")
    config = AutoConfig.from_pretrained("encoder")
    config.id2label, config.label2id = {0: "negative", 1: "positive"}, {"negative": 0, "positive": 1}
    AutoModelForSequenceClassification.from_config(config).save_pretrained("encoder")
    words = workshop.path / "words.jsonl"
    words.write_text(words.read_text().replace("neutral", "positive"))
    text = (workshop.path / "encoder.toml").read_text()
    start, end = text.index("[loss.hidden]"), text.index("[training]")
    (workshop.path / "encoder.toml").write_text(text[:start] + text[end:])
    command = ("information", "encoder.toml", "--sizes", "2", "--factor", "3", "--seeds", "1", "--dry-run")
    assert "leave this control out" in workshop.refused(*command)
    result = workshop.run(*command, "--control", "argmax")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("task", ["masked", "classes"])
def test_encoders_have_learning_curves(workshop: Workshop, task: str):
    set_up(workshop, task)
    words = ("information", "encoder.toml", "--sizes", "2", "--factor", "3", "--seeds", "1", "--control", "permuted")
    assert "loss.hidden" in workshop.refused(*words)
    text = (workshop.path / "encoder.toml").read_text()
    start, end = text.index("[loss.hidden]"), text.index("[training]")
    (workshop.path / "encoder.toml").write_text(text[:start] + text[end:].replace("steps = 4", "epochs = 1"))
    result = workshop.run(*words)
    assert result.exit_code == 0, result.output
    found = json.loads((workshop.path / "runs" / "encoder-information" / "information.json").read_text())
    assert found["policy"].startswith("each is read once")
    assert found["sizes"][0]["steps"] < found["sizes"][1]["steps"]
    if task == "classes":
        assert found["sizes"][1]["tokens"] == pytest.approx(found["sizes"][1]["documents"])
