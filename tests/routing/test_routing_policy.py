"""A policy comes back from its file as it was, decides as it says, and a damaged one is refused; the alarm fires for other traffic."""

import json
from pathlib import Path

import numpy as np
import pytest

from potstill.errors import DataError, RunDirectoryError
from potstill.routing import (
    Calibration,
    Confidence,
    Decision,
    DriftAlarm,
    Histogram,
    Policy,
    Promise,
    Signals,
    histogram_of,
)


def policy(threshold: float | None = 0.5, features=("mean_logprob",), weights=(1.0,)) -> Policy:
    return Policy(
        Confidence(features, weights, 0.0, ((-3.0, 0.2), (-1.0, 0.6), (0.0, 0.9))),
        threshold,
        Promise(0.97, 0.1, 700, 0.4, 0.98),
        Histogram((0.5,), (0.25, 0.75), 700),
        Calibration("2026-11-25", "written", "abc", "student", "teacher"),
        5,
    )


def test_a_policy_comes_back_as_it_was(tmp_path: Path):
    for one in (policy(), policy(None)):
        one.save(tmp_path / "policy.json")
        assert Policy.load(tmp_path / "policy.json") == one
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


def test_who_answers():
    assert policy().decide(Signals(mean_logprob=-1.0)) == Decision("student", 0.6, 0.5, -1.0)
    assert policy(0.6).decide(Signals(mean_logprob=-1.0)).answer_by == "student"
    between = policy().decide(Signals(mean_logprob=-2.0))
    assert between.answer_by == "teacher"
    assert between.confidence == pytest.approx(0.4)
    assert policy().decide(Signals(mean_logprob=-99.0)).confidence == 0.2
    assert policy(None).decide(Signals(mean_logprob=0.0)) == Decision("teacher", 0.9, None, 0.0)
    assert policy(0.0).decide(Signals(mean_logprob=-99.0)).answer_by == "student"


def test_what_a_policy_goes_by_must_be_there():
    with pytest.raises(DataError, match=r"'margin', which needs top_logprobs"):
        policy(features=("margin",)).decide(Signals(mean_logprob=-1.0))
    asking = policy(features=("mean_logprob", "prompt_length"), weights=(1.0, -1.0))
    with pytest.raises(DataError, match="needs the prompt"):
        asking.decide(Signals(mean_logprob=-1.0))
    assert asking.decide(Signals(mean_logprob=-1.0), prompt="x").confidence == pytest.approx(0.6)
    assert asking.confidence.needs_prompt
    assert not policy().confidence.needs_prompt


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.pop("potstill_policy"), "is no policy"),
        (lambda p: p.update(potstill_policy=3), "of version 3"),
        (lambda p: p.pop("threshold"), "damaged policy"),
        (lambda p: p.update(threshold=1.5), "are probabilities"),
        (lambda p: p.update(threshold="0.5"), "no finite number"),
        (lambda p: p["confidence"].update(points=[[0, 0.5], [0, 0.6]]), "do not rise"),
        (lambda p: p["confidence"].update(points=[[0, 0.5], [1, 0.4]]), "do not rise"),
        (lambda p: p["confidence"].update(points=[]), "do not rise"),
        (lambda p: p["confidence"].update(features=["luck"]), "unknown features"),
        (lambda p: p["confidence"].update(weights=[]), "needs a weight"),
        (lambda p: p["promise"].update(rho=2), "rho is in"),
        (lambda p: p["promise"].pop("kept"), "damaged policy"),
        (lambda p: p["histogram"].update(shares=[1.0]), "one share more"),
        (lambda p: p.update(histogram=None), "damaged policy"),
        (lambda p: p["histogram"].update(edges=[3.0, -2.5], shares=[0.5, 0.25, 0.25]), "edges do not rise"),
        (lambda p: p["histogram"].update(edges=[1.0, 1.0], shares=[0.5, 0.25, 0.25]), "edges do not rise"),
        (lambda p: p["histogram"].update(shares=[-5, 6]), "at least 0 and sum to 1"),
        (lambda p: p["histogram"].update(shares=[0.5, 0.6]), "at least 0 and sum to 1"),
        (lambda p: p["histogram"].update(n=10**400), "is no count"),
        (lambda p: p["histogram"].update(n=2**53), "is no count"),
        (lambda p: p["histogram"].update(n=float("inf")), "is no count"),
        (lambda p: p["promise"].update(n=-1), "is no count"),
        (lambda p: p["promise"].update(kept=10**400), "damaged policy"),
        (lambda p: p.update(top_logprobs=True), "is no count"),
        (lambda p: p.update(top_logprobs="5"), "is no count"),
        (lambda p: p["calibration"].update(answering=["token"]), "answering is a text"),
        (lambda p: p["calibration"].update(answering="tokn"), "answering is one of written, choice, token, given"),
        (lambda p: p["calibration"].update(student=None), "student is a text"),
        (lambda p: p.update(calibration=[1]), "damaged policy"),
    ],
)
def test_a_damaged_policy_is_refused(change, said, tmp_path: Path):
    found = json.loads(json.dumps(policy().to_json()))
    change(found)
    (tmp_path / "policy.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=said):
        Policy.load(tmp_path / "policy.json")


def test_files_that_hold_no_policy(tmp_path: Path):
    with pytest.raises(DataError, match="can't be read"):
        Policy.load(tmp_path / "policy.json")
    (tmp_path / "policy.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        Policy.load(tmp_path / "policy.json")
    (tmp_path / "policy.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="not JSON"):
        Policy.load(tmp_path / "policy.json")
    with pytest.raises(RunDirectoryError, match="can't write the policy"):
        policy().save(tmp_path / "nowhere" / "policy.json")


def test_the_alarm_is_silent_for_the_same_traffic_and_fires_for_other():
    random = np.random.default_rng(0)
    histogram = histogram_of(random.beta(4, 2, 2000))
    silent = [DriftAlarm(histogram, window=300) for _ in range(100)]
    found = [[alarm.see(float(one)) for one in random.beta(4, 2, 300)][-1] for alarm in silent]
    assert sum(one is None or one.fires for one in found) <= 1
    alarm = DriftAlarm(histogram, window=300)
    drifts = [alarm.see(float(one)) for one in np.concatenate([random.beta(4, 2, 300), random.beta(2, 3, 300)])]
    assert drifts[298] is None
    assert drifts[299] is not None
    assert not drifts[299].fires
    last = drifts[-1]
    assert last is not None
    assert last.fires
    assert "Kolmogorov" in last.reason
    assert last.n == 300


@pytest.mark.parametrize(("calibrated", "window"), [(35, 500), (100, 50), (350, 50)])
def test_few_queries_are_no_drift(calibrated: int, window: int):
    random, fired = np.random.default_rng(0), 0
    for _ in range(200):
        alarm = DriftAlarm(histogram_of(random.random(calibrated)), window=window)
        last = [alarm.see(float(one)) for one in random.random(window)][-1]
        assert last is not None
        fired += last.fires
    assert fired <= 3


def test_the_window_forgets():
    histogram = histogram_of(np.random.default_rng(0).random(1000))
    alarm, alone = DriftAlarm(histogram, window=50), DriftAlarm(histogram, window=50)
    random = np.random.default_rng(1)
    for one in random.random(30):
        alarm.see(float(one) / 10)
    for one in random.random(50):
        assert (found := alone.see(float(one))) is None or found
        last = alarm.see(float(one))
    assert last == found


def test_a_histogram_of_few_different_values():
    one = histogram_of(np.full(100, 0.7))
    assert one.shares == (0.0, 1.0, 0.0)
    alarm = DriftAlarm(one, window=50)
    assert not any((found := alarm.see(0.7)) and found.fires for _ in range(100))
    assert any((found := alarm.see(other)) and found.fires for other in (0.8, 0.6) * 25)
    most = histogram_of(np.array([0.7] * 95 + [0.9] * 5))
    assert most.shares == (0.0, 0.95, 0.05)
    two = histogram_of(np.array([0.2] * 30 + [0.7] * 70))
    assert two.edges == (0.2, np.nextafter(0.2, 1), 0.7, np.nextafter(0.7, 1))
    assert two.shares == (0.0, 0.3, 0.0, 0.7, 0.0)


@pytest.mark.parametrize("others", [(-1.0, 2.0), (-1.0, -1.0)])
def test_a_value_that_most_have_is_told_from_its_neighbours(others: tuple[float, float]):
    """In the middle and as the greatest: traffic all above it is another, and the same traffic is not."""
    scores = np.array([1.0] * 92 + [others[0]] * 4 + [others[1]] * 4)
    alarm = DriftAlarm(histogram_of(scores), window=100)
    last = [alarm.see(float(one)) for one in scores][-1]
    assert last is not None
    assert not last.fires
    last = [alarm.see(1.5) for _ in range(100)][-1]
    assert last is not None
    assert last.fires
