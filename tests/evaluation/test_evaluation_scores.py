import time
from dataclasses import fields

import numpy as np
import pytest
from random_text import written_down

from potstill.errors import DataError
from potstill.evaluation import (
    LOWER_IS_BETTER,
    METRICS,
    NEEDS_TEACHER,
    Measurement,
    difference,
    retention,
    score,
    scores,
)


def text(draw: np.random.Generator, documents: int, *, skill: float = 0.6, spread: float = 0.15) -> Measurement:
    """Documents of unequal length and difficulty. The expected accuracy is `skill` and nats a token are 4 - 2 skill."""
    tokens = draw.integers(20, 200, documents).astype(float)
    rate = np.clip(draw.normal(skill, spread, documents), 0, 1)
    return written_down(
        tokens=tokens,
        bytes=tokens * 3,
        nll=tokens * (4 - 2 * rate) + draw.normal(0, np.sqrt(tokens)),
        hits=draw.binomial(tokens.astype(int), rate),
        kl=tokens * 0.1,
        agreements=draw.binomial(tokens.astype(int), 0.9),
    )


@pytest.fixture
def found() -> Measurement:
    return text(np.random.default_rng(5), 50)


def test_each_metric_is_its_definition():
    found = written_down(
        tokens=[10, 30],
        bytes=[25, 75],
        nll=[20, 100],
        hits=[5, 7],
        kl=[1, 3],
        agreements=[8, 24],
        confidence=np.zeros((2, 15)),
    )
    expected = {
        "accuracy": 12 / 40,
        "perplexity": np.exp(120 / 40),
        "nats_per_token": 3.0,
        "bits_per_byte": 120 / np.log(2) / 100,
        "kl_to_teacher": 0.1,
        "agreement": 0.8,
        "calibration_error": 0.0,
    }
    assert {metric: score(found, metric).value for metric in METRICS} == pytest.approx(expected)
    assert {score(found, metric).n for metric in METRICS} == {2}
    assert set(METRICS) == set(expected) >= LOWER_IS_BETTER | NEEDS_TEACHER


@pytest.mark.parametrize(("share_right", "error"), [(0.75, 0.0), (0.5, 0.25), (1.0, 0.25)])
def test_calibration_in_one_bin(share_right, error):
    """Always 75 % sure: calibrated if right three times in four, whatever each document alone looks like."""
    confidence, right, count = np.zeros((3, 4, 15))
    count[:, 11] = 100
    confidence[:, 11] = 75
    right[:2, 11], right[2:, 11] = 100 * share_right - 10, 100 * min(1, share_right + 0.1)
    right[:2, 11] += max(0, 100 * share_right + 10 - 100)
    found = written_down(tokens=[100] * 4, confidence=confidence, right=right, count=count)
    assert score(found, "calibration_error").value == pytest.approx(error)


def test_calibration_errors_of_bins_do_not_cancel():
    """Over-confident in one bin and under-confident in another: 1/4 · 0.2 + 3/4 · 0.1."""
    confidence, right, count = np.zeros((3, 2, 15))
    count[:, 3], count[:, 14] = 25, 75
    confidence[:, 3], confidence[:, 14] = 25 * 0.25, 75 * 0.95
    right[:, 3], right[:, 14] = 25 * 0.45, 75 * 0.85
    found = written_down(tokens=[100, 100], confidence=confidence, right=right, count=count)
    assert score(found, "calibration_error").value == pytest.approx(0.25 * 0.2 + 0.75 * 0.1)


def test_a_score_is_the_same_every_time(found):
    before = [score(found, metric) for metric in METRICS]
    scores.resampled.cache_clear()
    np.random.seed(3)
    assert [score(found, metric) for metric in METRICS] == before


def test_the_interval_is_that_of_a_bootstrap_written_out(found):
    draw, n = np.random.default_rng(1), len(found)
    drawn = [
        np.exp(found.nll[chosen].sum() / found.tokens[chosen].sum())
        for chosen in (draw.integers(0, n, n) for _ in range(4_000))
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    ours = score(found, "perplexity")
    assert ours.low == pytest.approx(low, rel=0.01)
    assert ours.high == pytest.approx(high, rel=0.01)
    assert ours.low < ours.value < ours.high


@pytest.mark.parametrize(("metric", "truth"), [("accuracy", 0.6), ("perplexity", np.exp(2.8))])
def test_the_interval_holds_the_truth_95_times_in_100(metric, truth):
    draw = np.random.default_rng(7)
    found = [score(text(draw, 60), metric) for _ in range(400)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.92 <= covered <= 0.98  # two standard errors of 400 trials are 0.022


def test_the_interval_narrows_with_the_root_of_the_number_of_documents():
    widths = []
    for documents in (100, 1600):
        found = score(text(np.random.default_rng(2), documents), "accuracy")
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


def calibration(draw: np.random.Generator, documents: int, *, over: float) -> Measurement:
    """Says `confidence` and is right `over` less often, on average over documents."""
    confidence, right, count = np.zeros((3, documents, 15))
    for d in range(documents):
        says = draw.uniform(0.2, 0.8, 300)
        hits = draw.random(300) < says - over + draw.normal(0, 0.05)
        bins = (says * 15).astype(int)
        np.add.at(confidence[d], bins, says)
        np.add.at(right[d], bins, hits)
        np.add.at(count[d], bins, 1)
    return written_down(tokens=count.sum(1), confidence=confidence, right=right, count=count)


@pytest.mark.parametrize(("over", "least"), [(0.0, 0.7), (0.01, 0.88), (0.1, 0.88)])
def test_the_interval_of_the_calibration_error_holds_its_value_and_the_truth(over, least):
    """Percentiles alone hold it 0, 50 and 93 times in 100, and not always the value."""
    draw = np.random.default_rng(4)
    found = [score(calibration(draw, 40, over=over), "calibration_error") for _ in range(60)]
    assert all(0 <= one.low <= one.value <= one.high for one in found)
    assert np.mean([one.low <= over <= one.high for one in found]) >= least


def test_retention_is_better_when_larger():
    teacher = written_down(tokens=[10, 10], bytes=[40, 40], nll=[10, 10], hits=[8, 8])
    student = written_down(tokens=[10, 10], bytes=[40, 40], nll=[20, 20], hits=[6, 6])
    assert retention(student, teacher, "accuracy").value == pytest.approx(0.75)
    assert retention(student, teacher, "bits_per_byte").value == pytest.approx(0.5)
    assert retention(student, teacher, "perplexity").value == pytest.approx(np.exp(1) / np.exp(2))
    assert retention(student, teacher, "accuracy").metric == "accuracy retention"


def test_a_student_that_is_its_teacher_keeps_all_of_it(found):
    for metric in set(METRICS) - {"kl_to_teacher", "calibration_error"}:
        kept, apart = retention(found, found, metric), difference(found, found, metric)
        assert (kept.value, kept.low, kept.high, kept.n) == (1.0, 1.0, 1.0, 50)
        assert (apart.value, apart.low, apart.high) == (0.0, 0.0, 0.0)


def test_pairing_sees_what_two_intervals_do_not(found):
    """A little worse on every document: certain, though documents differ by far more."""
    worse = written_down(
        **{
            field.name: getattr(found, field.name) + (found.tokens * 0.01 if field.name == "nll" else 0)
            for field in fields(Measurement)
        }
    )
    one, other = score(found, "nats_per_token"), score(worse, "nats_per_token")
    assert other.low < one.high
    apart = difference(worse, found, "nats_per_token")
    assert apart.value == pytest.approx(0.01)
    assert 0.0099 < apart.low <= apart.high < 0.0101
    kept = retention(worse, found, "nats_per_token")
    assert kept.high < 1


def test_the_paired_interval_is_that_of_a_bootstrap_written_out(found):
    other = text(np.random.default_rng(6), 50)
    other = written_down(
        **{field.name: getattr(other, field.name) for field in fields(Measurement)}
        | {"tokens": found.tokens, "bytes": found.bytes}
    )
    draw, drawn = np.random.default_rng(1), []
    for _ in range(4_000):
        chosen = draw.integers(0, 50, 50)
        drawn.append(other.hits[chosen].sum() / found.hits[chosen].sum())
    low, high = np.percentile(drawn, [2.5, 97.5])
    kept = retention(other, found, "accuracy")
    assert (kept.low, kept.high) == (pytest.approx(low, rel=0.01), pytest.approx(high, rel=0.01))


def test_the_difference_of_a_difference_is_turned_round(found):
    other = written_down(tokens=found.tokens, bytes=found.bytes, hits=found.hits / 2)
    one, turned = difference(found, other, "accuracy"), difference(other, found, "accuracy")
    assert (turned.value, turned.low, turned.high) == (-one.value, pytest.approx(-one.high), pytest.approx(-one.low))


def test_documents_without_a_prediction_are_not_there(found):
    empty = {field.name: np.zeros_like(getattr(found, field.name)) for field in fields(Measurement)}
    padded = written_down(**{name: np.concatenate([getattr(found, name), zeros]) for name, zeros in empty.items()})
    for metric in METRICS:
        assert score(padded, metric) == score(found, metric)


def test_one_document_has_no_interval(found):
    alone = written_down(**{field.name: getattr(found, field.name)[:1] for field in fields(Measurement)})
    for one in (*(score(alone, metric) for metric in METRICS), difference(alone, alone, "accuracy")):
        assert np.isfinite(one.value)
        assert np.isnan([one.low, one.high]).all()
        assert one.n == 1


def test_very_many_documents_are_drawn_in_groups(monkeypatch):
    found = text(np.random.default_rng(3), 3_000)
    whole = score(found, "perplexity")
    monkeypatch.setattr(scores, "_MOST_UNITS", 500)
    grouped = score(found, "perplexity")
    assert grouped.value == pytest.approx(whole.value, rel=1e-12)
    assert grouped.high - grouped.low == pytest.approx(whole.high - whole.low, rel=0.1)
    assert grouped.n == 3_000


def test_a_hundred_thousand_documents_take_seconds_and_little_memory():
    found = text(np.random.default_rng(3), 100_000)
    started = time.perf_counter()
    assert score(found, "accuracy").n == 100_000
    assert time.perf_counter() - started < 20
    assert scores.resampled(scores._MOST_UNITS).nbytes < 70e6


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_nothing_has_no_interval():
    none = written_down(tokens=[5, 5], hits=[0, 0])
    kept = retention(written_down(tokens=[5, 5], hits=[1, 2]), none, "accuracy")
    assert np.isinf(kept.value)
    assert np.isnan([kept.low, kept.high]).all()
    both = retention(none, none, "accuracy")
    assert (both.value, both.low, both.high) == (1.0, 1.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_a_perplexity_beyond_all_numbers_is_infinite():
    assert score(written_down(tokens=[1, 1], nll=[1e4, 1e4]), "perplexity").value == np.inf


def test_what_can_not_be_scored_is_refused(found):
    with pytest.raises(DataError, match="no metric 'acuracy': choose among accuracy, perplexity"):
        score(found, "acuracy")
    alone = written_down(tokens=[5, 5], hits=[1, 2])
    for metric in NEEDS_TEACHER:
        with pytest.raises(DataError, match="measured without one"):
            score(alone, metric)
    with pytest.raises(DataError, match="nothing to score"):
        score(written_down(tokens=[0.0, 0.0]), "accuracy")
    with pytest.raises(DataError, match="KL to itself is 0"):
        retention(found, found, "kl_to_teacher")


@pytest.mark.parametrize("changes", [{"tokens": [5, 6]}, {"bytes": [9, 8]}, {"tokens": [5, 5, 5], "bytes": [9, 9, 9]}])
def test_measurements_of_other_text_are_not_compared(changes):
    one = {"tokens": [5, 5], "bytes": [9, 9]}
    for compared in (retention, difference):
        with pytest.raises(DataError, match="not of the same predictions"):
            compared(written_down(**one), written_down(**(one | changes)), "accuracy")
