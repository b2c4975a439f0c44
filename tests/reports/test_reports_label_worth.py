"""The page and the picture of learning curves, from figures written down by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from potstill.evaluation import Multiplier
from potstill.reports import label_worth_page, render, write_picture
from potstill.reports.label_worth import rows_in_words, verdict
from potstill.reports.markdown import markdown
from potstill.runs import LabelWorth
from potstill.types import Score

SIZES = (3_000.0, 12_000.0, 48_000.0)
BOTH = ("nats_per_token", "accuracy")


def score(value: float) -> Score:
    return Score("s", value, value - 0.05, value + 0.05, 40)


def saving(tokens: float, value: float) -> Multiplier:
    return Multiplier("nats_per_token", 5.0, tokens, value, value / 1.2, value * 1.2, tokens / 48_000, tokens / 3_000)


CURVES = {"soft": (5.8, 5.2, 4.6), "hard": (6.1, 5.5, 5.0), "permuted": (4.9,)}
WORTH = LabelWorth(
    seeds=3,
    tokens=SIZES,
    documents=(2.0, 8.0, 30.0),
    steps=(12.0, 47.0, 188.0),
    teacher={name: score(0.4) for name in BOTH},
    curves={labels: {name: [score(one) for one in values] for name in BOTH} for labels, values in CURVES.items()},
    multipliers={"soft": {name: [saving(3e3, math.inf), saving(12e3, math.inf), saving(48e3, 2.25)] for name in BOTH}},
    minus={labels: {name: [score(4.6 - CURVES[labels][-1])] for name in BOTH} for labels in ("hard", "permuted")},
    held={name: score(0.5) for name in ("entropy_bits", "nll_bits", "gap_bits", "noise")},
    equivalents=[score(value) for value in (100.0, 150.0, 200.0)],
)


def test_the_picture_marks_the_saving_and_names_the_curves(tmp_path: Path):
    path = write_picture(WORTH, tmp_path / "curves.svg")
    root = ElementTree.parse(path).getroot()
    said = " ".join(root.itertext())
    for words in ("2.25×", "soft labels", "hard labels", "permuted dark knowledge", "nats a token", "48 k"):
        assert words in said
    assert "2.25× at 5." in root.attrib["aria-label"]
    assert write_picture(WORTH, tmp_path / "again.svg").read_bytes() == path.read_bytes()


def test_the_page_has_bounds_where_nothing_else_is_known():
    page = label_worth_page(
        "x", WORTH, policy="each is read once", recipe="", manifest={"versions": {}, "machine": {}, "date": ""}
    )
    text = markdown(page)
    for words in ("> 1 ", "> 4 ", "2.25 (1.88 – 2.7)", "each is read once", "■"):
        assert words in (text + render(page))
    assert [row[-1] for row in rows_in_words(WORTH)][:3] == ["> 1 (> 1–> 1)", "> 4 (> 4–> 4)", "2.25 (1.88–2.7)"]


def test_the_verdict_is_against_the_best_control():
    said = verdict(WORTH)
    assert "0.300 nats better" in said
    assert "permuted dark knowledge: that much is what the teacher knows" in said
    unclear = replace(WORTH, minus={"permuted": {name: [Score("s", -0.01, -0.05, 0.03, 40)] for name in BOTH}})
    assert "no clear sign" in verdict(unclear)
    worse = {"soft": {name: [saving(3e3, 0.0), saving(12e3, 0.0), saving(48e3, 0.0)] for name in BOTH}}
    assert "don't reach" in verdict(replace(WORTH, multipliers=worse))
