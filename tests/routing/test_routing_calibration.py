"""Confidences against scikit-learn's, curves against closed forms, and a calibration from beginning to end."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from made_up import drawn, scored
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from potstill.errors import DataError, MissingExtraError
from potstill.reports.routing import routing_page, sentence
from potstill.routing import DriftAlarm, Signals
from potstill.routing.calibration import Asked, Wanted, calibrate
from potstill.routing.confidence import (
    auroc,
    calibration_error,
    fit_classifier,
    fit_signal,
    on_points,
    rising_points,
    scores_of,
)
from potstill.routing.curves import Costs, cost_curve, share_at_random
from potstill.routing.queries import Scored

ASKED = Asked("given", "student", "teacher")


def test_points_are_the_blocks_of_isotonic_regression():
    random = np.random.default_rng(0)
    x = np.round(random.random(300), 2)  # with ties
    y = (random.random(300) < x).astype(float)
    points = rising_points(x, y)
    fitted = IsotonicRegression().fit_transform(x, y)
    for level in np.unique(fitted):
        block = x[fitted == level].mean()
        assert any(abs(a - block) < 1e-9 and abs(b - level) < 1e-9 for a, b in points)
    assert len(points) == len(np.unique(fitted))
    assert rising_points(x, np.ones(300)) == ((pytest.approx(x.mean()), 1.0),)


def test_auroc_and_calibration_error():
    random = np.random.default_rng(0)
    scores = np.round(random.random(400), 1)
    good = (random.random(400) < scores).astype(float)
    assert auroc(scores, good) == pytest.approx(roc_auc_score(good, scores))
    assert np.isnan(auroc(scores, np.ones(400)))
    exact = np.repeat([0.0, 0.5, 1.0], 100)
    assert calibration_error(exact, np.concatenate([np.zeros(100), np.tile([0.0, 1.0], 50), np.ones(100)])) < 0.05
    assert calibration_error(np.full(100, 0.9), np.zeros(100)) == pytest.approx(0.9)


def test_the_classifier_is_scikit_learns_in_plain_numbers():
    random = np.random.default_rng(0)
    features = {"mean_logprob": -random.random(300), "margin": random.random(300), "entropy": np.zeros(300)}
    good = (random.random(300) < 0.3 + 0.6 * features["margin"]).astype(float)
    found = fit_classifier(features, good).confidence
    columns = np.stack(list(features.values()), 1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression()).fit(columns, good).decision_function(columns)
    ours = found.intercept + columns @ np.array(found.weights)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_what_is_constant_but_for_rounding_has_no_weight():
    random = np.random.default_rng(0)
    features = {"margin": random.random(300), "prompt_length": np.full(300, 2.7) + 1e-15 * random.normal(size=300)}
    good = (random.random(300) < 0.3 + 0.6 * features["margin"]).astype(float)
    found = fit_classifier(features, good).confidence
    assert found.weights[1] == 0
    assert 0.5 < found.weights[0] < 10
    assert np.isfinite(found.intercept)


def test_of_entropy_less_is_surer():
    entropy = np.linspace(0, 3, 100)
    found = fit_signal("entropy", entropy, (entropy < 1).astype(float))
    said = on_points(found.confidence, scores_of(found.confidence, {"entropy": entropy}))
    assert said[0] == 1
    assert said[-1] == 0


def test_one_query_at_a_time_is_as_many_at_once():
    """The server's decisions are those that the promise was tested on, to the last bit."""
    queries = scored(400)
    for by in ("mean_logprob", "entropy", "classifier"):
        found = calibrate(queries, ASKED, Wanted(by=by))
        order = np.random.default_rng(0).permutation(400)[120:]
        assert queries.prompts is not None
        decisions = [found.policy.decide(queries.signals[at], prompt=queries.prompts[at]) for at in order]
        assert np.mean([one.answer_by == "student" for one in decisions]) == found.policy.promise.share
        mix = [
            (queries.student if one.answer_by == "student" else queries.teacher)[at]
            for one, at in zip(decisions, order, strict=True)
        ]
        assert np.mean(mix) / queries.teacher[order].mean() == pytest.approx(found.policy.promise.kept)


def test_a_calibration_from_beginning_to_end():
    found = calibrate(scored(3000), ASKED)
    promise = found.policy.promise
    assert {one.name for one in found.qualities} == {"mean_logprob", "entropy", "classifier"}
    assert found.qualities[0].auroc == pytest.approx(max(one.auroc for one in found.qualities), abs=0.02)
    assert promise.n == 2100
    assert found.num_fitted == 900
    assert promise.share > found.random_promised > 0
    assert promise.share > found.random_share
    assert promise.kept > 0.97
    assert found.needed is None
    assert sum(one.n for one in found.domains) == 2100
    assert [one.name for one in found.domains] == ["even", "odd"]
    weighed = sum(one.share * one.n for one in found.domains) / 2100
    assert weighed == pytest.approx(promise.share)
    assert found.policy == calibrate(scored(3000), ASKED).policy


def test_a_worthless_signal_gives_about_what_coin_tosses_give():
    queries = scored(3000)
    found = calibrate(queries, ASKED, Wanted(by="entropy"))
    assert found.curve.figures["apgr"].value == pytest.approx(0.5, abs=0.07)
    assert found.policy.promise.share == pytest.approx(found.random_promised, abs=0.12)


def test_nothing_is_promised_where_nothing_can_be():
    few = calibrate(scored(100), ASKED, Wanted(rho=0.99))
    assert few.policy.threshold is None
    assert few.policy.promise.share == 0
    assert few.policy.promise.kept == 1
    assert few.policy.decide(Signals(mean_logprob=0.0), prompt="x").answer_by == "teacher"
    queries = scored(500)
    bad = calibrate(replace(queries, student=np.zeros(500), teacher=np.ones(500)), ASKED)
    assert bad.policy.threshold is None
    assert bad.needed is None
    assert "good answers" in bad.untried
    with pytest.raises(DataError, match="teacher gets no query right"):
        calibrate(replace(queries, teacher=np.zeros(500)), ASKED)


def test_a_query_asked_twice_counts_once():
    queries = scored(200)
    keys = tuple(str(number) for number in range(200))
    once = calibrate(replace(queries, keys=keys), ASKED)
    twice = Scored(
        np.tile(queries.student, 3),
        np.tile(queries.teacher, 3),
        queries.signals * 3,
        queries.domains * 3,
        queries.prompts * 3 if queries.prompts else None,
        True,
        5,
        queries.fingerprint,
        keys * 3,
    )
    found = calibrate(twice, ASKED)
    assert found.policy == once.policy
    assert (found.num_repeated, once.num_repeated) == (400, 0)
    assert "400 queries were left out" in " ".join(routing_page(found, student="s", teacher="t", costs=None).notes)


def test_a_student_that_is_always_equal_is_told_why_its_whole_quality_is_not_promised():
    queries = scored(200)
    found = calibrate(replace(queries, student=queries.teacher), ASKED, Wanted(rho=1.0))
    assert found.policy.threshold is None
    assert "one that is as good never shows it" in sentence(found)


def test_what_can_not_be_gone_by(monkeypatch):
    queries = scored(200)
    with pytest.raises(DataError, match="'margin' is not among"):
        calibrate(queries, ASKED, Wanted(by="margin"))
    with pytest.raises(DataError, match="5 good answers"):
        calibrate(replace(queries, student=np.ones(200)), ASKED, Wanted(by="classifier"))
    with pytest.raises(DataError, match="both need"):
        calibrate(queries, ASKED, Wanted(fit_share=0.02))
    mixed = replace(queries, signals=(Signals(margin=0.5), *queries.signals[1:]))
    with pytest.raises(DataError, match="no signal is there for all"):
        calibrate(mixed, ASKED)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"clone of potstill, pip install '\.\[route\]'"):
        calibrate(queries, ASKED, Wanted(by="classifier"))


def test_the_curve_in_closed_form():
    student, teacher = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 1])
    curve = cost_curve(np.array([0.9, 0.8, 0.2, 0.1]), student, teacher)
    at = [round(100 * share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert curve.quality[at] == pytest.approx([0.75, 0.75, 1.0, 0.75, 0.5])
    assert curve.oracle[at] == pytest.approx([0.75, 1.0, 1.0, 0.75, 0.5])
    assert curve.chance[at] == pytest.approx([0.75, 0.6875, 0.625, 0.5625, 0.5])
    # PGR is 0 at no calls to the teacher, 1 at a quarter, 2 at a half, 1 at three quarters and at all.
    assert curve.figures["apgr"].value == pytest.approx((0.5 + 1.5 + 1.5 + 1.0) / 4)
    assert curve.figures["cpt_50"].value == pytest.approx(0.13)
    assert curve.figures["share_99"].value == pytest.approx(0.75)


def test_equal_confidences_share_what_they_lose():
    student, teacher = np.array([1.0, 0, 1, 0]), np.ones(4)
    curve = cost_curve(np.full(4, 0.5), student, teacher)
    assert curve.quality == pytest.approx(curve.chance)


def test_bands_of_equal_confidences_are_those_of_what_they_share():
    student = (np.random.default_rng(0).random(300) < 0.8).astype(float)
    curve = cost_curve(np.full(300, 0.5), student, np.ones(300))
    alone = curve.figures["student"]
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((alone.low, alone.high))
    assert alone.high - alone.low > 0.05


def test_no_gap_is_recovered_where_there_is_none():
    teacher = np.tile([1.0, 0.0], 50)
    figures = cost_curve(np.linspace(0, 1, 100), np.maximum(teacher, np.arange(100) < 5), teacher).figures
    assert np.isnan([figures[name].value for name in ("apgr", "cpt_50", "cpt_80")]).all()
    assert figures["share_99"].value == 1


def test_bands_hold_the_truth_and_oracles_are_best():
    random = np.random.default_rng(0)
    truth = cost_curve(*drawn(10_000, random)).quality
    inside = [((one := cost_curve(*drawn(400, random))).low <= truth) & (truth <= one.high) for _ in range(10)]
    assert np.mean(inside) > 0.85
    curve = cost_curve(*drawn(1000, random))
    assert (curve.oracle >= curve.quality - 1e-9).all()


def test_what_a_cascade_costs():
    costs = Costs(1.0, 8.0, "as given")
    assert costs.relative(0.0) == 1.125
    assert costs.relative(1.0) == 0.125
    assert costs.relative(costs.break_even) == 1.0
    assert share_at_random(0.8, 0.5, 0.9) == pytest.approx(0.25)
    assert share_at_random(0.4, 0.5, 0.9) == 1.0
    assert share_at_random(0.95, 0.5, 0.9) == 0.0


def test_scores_between_0_and_1_are_scores_too():
    random = np.random.default_rng(0)
    teacher = random.random(1500)
    student = np.clip(teacher - 0.3 * (random.random(1500) < 0.3), 0, 1)
    signals = tuple(Signals(mean_logprob=float(one)) for one in (student - teacher) + 0.1 * random.normal(size=1500))
    queries = Scored(student, teacher, signals, ("",) * 1500, None, True, 0, "x")
    found = calibrate(queries, ASKED, Wanted(rho=0.95))
    assert found.policy.promise.share > 0.6
    assert found.policy.promise.kept >= 0.95


def test_the_alarm_sees_other_traffic_where_all_confidences_are_equal():
    """A student that is as good as its teacher wherever it was asked has a level curve, and 1 for whatever is asked."""
    queries = scored(400)
    policy = calibrate(replace(queries, student=queries.teacher), ASKED, Wanted(by="mean_logprob")).policy
    for moved_by, fires in ((0.0, False), (-3.0, True)):
        alarm, drift = DriftAlarm(policy.histogram, window=300), None
        for one in queries.signals[:300]:
            assert one.mean_logprob is not None
            decision = policy.decide(replace(one, mean_logprob=one.mean_logprob + moved_by))
            assert (decision.answer_by, decision.confidence) == ("student", 1.0)
            drift = alarm.see(decision.score)
        assert drift is not None
        assert drift.fires == fires
