import json
import math
from dataclasses import replace

import numpy as np
import pytest
from random_text import written_down

from potstill.errors import DataError, RunDirectoryError
from potstill.evaluation import (
    METRICS,
    ModelScores,
    compare,
    difference,
    load_scores,
    retention,
    save_scores,
    score,
    score_table,
)
from potstill.types import Score


def measurements(*, with_teacher: bool = True):
    draw = np.random.default_rng(0)
    tokens = draw.integers(50, 90, 30).astype(float)
    found = {}
    for name, skill in (("teacher", 0.8), ("untouched", 0.2), ("hard_labels", 0.6), ("distilled", 0.7)):
        beside = {"kl": tokens * (0.8 - skill), "agreements": np.floor(tokens * skill)} if with_teacher else {}
        noise = draw.uniform(0, 0.1, 30)
        found[name] = written_down(
            tokens=tokens,
            bytes=tokens * 3,
            nll=tokens * (3 - skill + noise),
            hits=np.floor(tokens * (skill - noise)),
            **beside,
        )
    return found


def test_a_row_has_every_score_what_is_kept_and_what_is_gained():
    found = measurements()
    rows = {row.name: row for row in compare(found)}
    assert list(rows) == ["teacher", "untouched", "hard_labels", "distilled"]
    control = rows["hard_labels"]
    assert control.scores == {metric: score(found["hard_labels"], metric) for metric in METRICS}
    assert control.kept["accuracy"] == retention(found["hard_labels"], found["teacher"], "accuracy")
    apart = control.distilled_minus_this["perplexity"]
    assert apart == difference(found["distilled"], found["hard_labels"], "perplexity")
    assert apart.high < 0
    assert (rows["teacher"].kept, rows["teacher"].distilled_minus_this) == ({}, {})
    assert rows["distilled"].distilled_minus_this == {}
    assert rows["distilled"].kept.keys() == control.kept.keys()


def test_without_a_teacher_what_needs_one_is_left_out():
    found = measurements(with_teacher=False)
    del found["teacher"]
    rows = {row.name: row for row in compare(found)}
    assert rows["untouched"].scores.keys() == set(METRICS) - {"kl_to_teacher", "agreement"}
    assert rows["untouched"].distilled_minus_this.keys() == {"perplexity", "accuracy"}
    assert rows["untouched"].kept == {}
    assert "teacher" not in score_table(tuple(rows.values()))


def test_models_of_other_text_are_not_compared():
    found = measurements()
    found["distilled"] = written_down(tokens=[5, 5])
    with pytest.raises(DataError, match="not of the same predictions"):
        compare(found)


def test_the_table():
    def row(name: str, value: float, kept: float | None) -> ModelScores:
        found = {metric: Score(metric, value, value - 0.05, value + 0.05, 1234) for metric in METRICS}
        shares = {} if kept is None else {"accuracy": Score("accuracy retention", kept, kept - 0.01, kept + 0.01, 1234)}
        return ModelScores(name, found, shares, {})

    rows = (row("teacher", 0.5, None), row("hard_labels", 0.25, 0.5))
    assert score_table(rows).splitlines() == [
        "| model | perplexity | right | agrees with teacher | KL to teacher, nats | bits per byte | calibration error "
        "| accuracy kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| teacher | 0.50 (0.45 to 0.55) | 50.0% (45.0% to 55.0%) | – | – | 0.500 (0.450 to 0.550) | 0.500 (0.450 to 0.550) | – |",
        "| hard labels | 0.25 (0.20 to 0.30) | 25.0% (20.0% to 30.0%) | 25.0% (20.0% to 30.0%) | 0.250 (0.200 to 0.300) "
        "| 0.250 (0.200 to 0.300) | 0.250 (0.200 to 0.300) | 50.0% (49.0% to 51.0%) |",
        "",
        "In brackets 95 % intervals, from a bootstrap over 1,234 documents.",
    ]


def test_a_value_without_an_interval_stands_alone_in_the_table():
    found = compare({"model": written_down(tokens=[10.0], nll=[10.0], hits=[5.0])})
    line = score_table(found).splitlines()[2]
    assert line.startswith("| model | 2.72 | 50.0% | ")
    assert "nan" not in score_table(found)


def test_rows_are_saved_and_loaded(tmp_path):
    rows = compare(measurements())
    save_scores(rows, tmp_path / "scores.json")
    assert load_scores(tmp_path / "scores.json") == rows
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]
    kept = json.loads((tmp_path / "scores.json").read_text())["models"]["distilled"]["kept"]["accuracy"]
    assert kept.keys() == {"metric", "value", "low", "high", "n"}
    assert kept["n"] == 30


def test_what_is_no_number_is_null(tmp_path):
    rows = compare({"model": written_down(tokens=[10.0], nll=[1e5])})
    save_scores(rows, tmp_path / "scores.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    saved = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    assert saved["models"]["model"]["scores"]["accuracy"]["low"] is None
    (loaded,) = load_scores(tmp_path / "scores.json")
    found = loaded.scores["accuracy"]
    assert (found.value, found.n) == (0.0, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(loaded.scores["perplexity"].value)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '{"models": {"a": {}}}', '{"models": {"a": {"scores": {"x": 1}, "kept": {}}}}', '{"models": 3}'],
)
def test_what_holds_no_scores_is_refused(content, tmp_path):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(DataError, match=r"scores\.json holds no scores"):
        load_scores(tmp_path / "scores.json")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="holds no scores"):
        load_scores(tmp_path / "missing.json")
    with pytest.raises(RunDirectoryError, match=r"can't write .*scores\.json"):
        save_scores(compare(measurements()), tmp_path / "missing" / "scores.json")


def test_the_rows_are_frozen():
    row = compare(measurements())[0]
    assert replace(row, name="x").name == "x"
    with pytest.raises(AttributeError):
        row.name = "x"  # type: ignore[misc]
