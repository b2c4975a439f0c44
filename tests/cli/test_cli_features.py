"""Features from the command line: the starters in two steps, on a decoder and an encoder; what a recipe may not ask."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import Workshop
from tiny_encoders import WORDS, tiny_encoder, word_tokenizer
from transformers import AutoConfig

from potstill.recipe import decode, starter_recipes, write_starter


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def starter(workshop: Workshop, name: str, model: str, text: str) -> None:
    """The starter with another model and text, two steps long."""
    path = write_starter(name, workshop.path / f"{name}.toml")
    toml = path.read_text("utf-8").replace("path/to/teacher", model).replace("path/to/text", text)
    shorter = (
        toml.replace("epochs = 1", "steps = 2").replace("length = 512", "length = 16").replace("rows = 32", "rows = 4")
    )
    path.write_text(shorter.replace("layers = 6", "layers = 2"), "utf-8")


def encoder(workshop: Workshop) -> None:
    tiny_encoder("bert").save_pretrained(workshop.path / "encoder")
    word_tokenizer().save_pretrained(workshop.path / "encoder")
    draw = np.random.default_rng(0)
    records = [{"text": " ".join(draw.choice(WORDS, 12))} for _ in range(40)]
    (workshop.path / "words.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(
    ("name", "more"),
    [("minilm", ("loss.attention.heads=2",)), ("tinybert", ("loss.balance.kind=dynamic",))],
)
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_starters_run(name: str, more: tuple[str, ...], kind: str, workshop: Workshop):
    encoder(workshop)
    starter(workshop, name, *(("teacher", "text.jsonl") if kind == "decoder" else ("encoder", "words.jsonl")))
    fast = "evaluation={speed=false, control=false, untouched=false, tokens=500}"
    width = 16 if kind == "decoder" else 32
    if name == "tinybert":
        width //= 2
        more = (*more, f"student.changes={{num_hidden_layers=2, hidden_size={width}}}")
    result = workshop.run("distill", f"{name}.toml", *sets(*more, fast, "data.held_out=0.3"), "--out", "run")
    assert result.exit_code == 0, result.output
    steps = [json.loads(line) for line in next((workshop.path / "run").rglob("steps.jsonl")).read_text().splitlines()]
    wanted = {"attention"} if name == "minilm" else {"attention", "hidden", "embeddings"}
    assert wanted <= steps[0]["parts"].keys()
    assert steps[0]["shares"].keys() == wanted | {"labels"}
    assert not steps[1]["shares"]
    student = AutoConfig.from_pretrained(workshop.path / "run" / "student")
    assert student.hidden_size == width
    report = (workshop.path / "run" / "report.html").read_text("utf-8")
    assert "share of the gradient" in report


def test_starters_for_features_decode():
    assert {"minilm", "tinybert"} <= {one.name for one in starter_recipes()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (('student={kind="fresh", changes={hidden_size=24}}', "loss.hidden={}"), 'set loss.hidden.projection = "shared"'),
        (('student={kind="fresh", changes={hidden_size=24}}', "loss.embeddings={}"), "loss.embeddings.projection = true"),
        (("loss.hidden={layers=9}",), "don't both have as many last ones"),
        (("loss.hidden={layers=0}",), "needs \"last\", \"uniform\", \"lineage\""),
        (("loss.hidden={kind=\"cka\", projection=\"each\"}",), "leave `projection` out"),
        (('student={kind="fresh", changes={num_attention_heads=4}}', 'loss.attention={kind="maps"}'), "heads of the student's attention"),
        (('loss.attention={kind="relations", heads=7}',), "can't be divided into 7 relation heads"),
        (('student={kind="fresh", changes={hidden_size=24}}', 'loss.attention={kind="relations", layers="lineage"}'), "lineage"),
        (("loss.balance.kind=dynamic",), "there is none of them"),
        (("teacher.kind=stored", 'loss.attention={kind="relations"}'), "leave loss.attention out"),
        (('loss.attention={kind="map"}',), "maps"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_ask(settings: tuple[str, ...], message: str, workshop: Workshop):
    assert message in workshop.refused("distill", "recipe.toml", *sets(*settings), "--out", "wrong")


def test_what_was_there_before_means_the_same():
    """[loss.hidden] of older recipes."""
    table = {"kind": "mse", "weight": 0.2, "layers": [[0, 1], [1, 3]]}
    recipe = decode(
        {
            "teacher": {"model": "big"},
            "student": {"kind": "copy_layers", "layers": 2},
            "data": {"source": "x"},
            "loss": {"hidden": table},
            "training": {"steps": 1},
        }
    )
    hidden = recipe.loss.hidden
    assert hidden is not None
    assert (hidden.kind, hidden.weight, hidden.layers) == ("mse", 0.2, ((0, 1), (1, 3)))
    assert (hidden.projection, hidden.standardised) == ("none", False)
