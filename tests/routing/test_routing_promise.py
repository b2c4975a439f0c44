"""The promise is kept as often as it says, at any number of queries; bets never look ahead."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import drawn

from potstill.routing.promise import betting_p_value, certify, net_loss, queries_needed, thresholds_of

RHO, DELTA = 0.97, 0.1


def by_hand(losses, rho: float, delta: float) -> float:
    """The capital, one query after another."""
    n, capital, best = len(losses), 1.0, 1.0
    total, squares = 0.0, 0.0
    variance = 0.25
    for i, z in enumerate(losses, 1):
        bet = min(math.sqrt(2 * math.log(1 / delta) / (n * variance)) / (1 + rho), 0.9 / rho)
        capital *= 1 - bet * z
        best = max(best, capital)
        x = (z + 1) / (1 + rho)
        total += x
        squares += (x - (0.5 + total) / (i + 1)) ** 2
        variance = (0.25 + squares) / (i + 1)
    return 1 / best


@given(st.lists(st.floats(-1, 0.9), min_size=1, max_size=40), st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None)
def test_the_p_value_is_the_formulas(losses, delta):
    found = float(betting_p_value(np.array(losses), rho=0.9, delta=delta))
    assert found == pytest.approx(by_hand(losses, 0.9, delta), rel=1e-9)
    assert 0 < found <= 1


def test_the_net_loss_is_negative_exactly_where_the_promise_holds():
    random = np.random.default_rng(0)
    for _ in range(50):
        confidences, student, teacher = random.random((3, 40))
        accepted = (confidences > 0.5).astype(float)
        mix = np.where(accepted > 0, student, teacher).mean()
        losses = net_loss(accepted, student, teacher, RHO)
        assert losses.mean() == pytest.approx(RHO * teacher.mean() - mix)
        assert losses.min() >= -1
        assert losses.max() <= RHO


@pytest.mark.parametrize("n", [100, 1000])
def test_a_hypothesis_that_is_true_is_rejected_at_most_as_often_as_promised(n):
    """At the very edge: the mean loss is 0."""
    random = np.random.default_rng(n)
    # Lost with probability q, won with p, and a little won wherever the teacher answers:
    # q rho = p + (1 - rho) (1 - p - q), so q = p + (1 - rho) (1 - p).
    p = 0.02
    q = p + (1 - RHO) * (1 - p)
    draws = random.random((1500, n))
    losses = np.where(draws < q, RHO, np.where(draws < q + p, -1.0, -(1 - RHO)))
    assert losses.mean() == pytest.approx(0.0, abs=4e-3)
    rejected = (betting_p_value(losses, rho=RHO, delta=DELTA) <= DELTA).mean()
    assert rejected <= DELTA + 0.02
    assert rejected > 0.01  # and it can be rejected: the test is no empty one


def test_the_promise_is_kept_over_many_calibrations():
    random = np.random.default_rng(1)
    confidences, student, teacher = drawn(500_000, random)
    thresholds = thresholds_of(drawn(50_000, random)[0])
    truth = {float(t): net_loss((confidences >= t).astype(float), student, teacher, RHO).mean() for t in thresholds}
    best = max((confidences >= t).mean() for t, loss in truth.items() if loss <= 0)
    for n, least in ((300, 0.35), (1000, 0.6)):
        broken, shares = 0, []
        for _ in range(250):
            queries = drawn(n, random)
            found = certify(*queries, thresholds, rho=RHO, delta=DELTA).threshold
            broken += found is not None and truth[found] > 0
            shares.append(0.0 if found is None else (confidences >= found).mean())
        assert broken / 250 <= DELTA + 0.02
        assert np.mean(shares) >= least * best  # a promise that lets nothing through is easily kept


def test_thresholds_are_tested_in_order_until_the_first_failure():
    """A threshold behind a failure is not taken, however good it is by itself."""
    n, asked = 600, {"rho": RHO, "delta": DELTA}
    confidences = np.linspace(1, 0, n)
    # The surest answers are the wrong ones, and below the middle only the student is right.
    student, teacher = (confidences <= 0.95).astype(float), (confidences > 0.5).astype(float)
    random = np.random.default_rng(0).permutation(n)
    queries = confidences[random], student[random], teacher[random]
    assert certify(*queries, np.array([0.0]), **asked).threshold == 0.0
    failing = certify(*queries, np.array([0.9, 0.0]), **asked)
    assert failing.threshold is None
    assert len(failing.p_values) == 1


def test_a_student_as_good_as_its_teacher_may_answer_everything():
    random = np.random.default_rng(0)
    right = (random.random(2000) < 0.8).astype(float)
    confidences = random.random(2000)
    assert certify(confidences, right, right, thresholds_of(confidences), rho=RHO, delta=DELTA).threshold == 0.0


def test_scores_that_are_no_numbers_promise_nothing():
    n, asked = 200, {"rho": RHO, "delta": DELTA}
    found = certify(np.ones(n), np.full(n, np.nan), np.ones(n), np.array([0.5]), **asked)
    assert found.threshold is None


def test_the_grid_lets_through_ever_more():
    grid = thresholds_of(np.random.default_rng(0).random(1000))
    assert (np.diff(grid) < 0).all()
    assert grid[-1] == 0
    assert len(thresholds_of(np.full(100, 0.5))) == 2


def test_how_many_queries_a_promise_needs():
    n, asked = 60, {"rho": RHO, "delta": DELTA}
    confidences = np.random.default_rng(3).permutation(np.linspace(0, 1, n))
    student, teacher, thresholds = (confidences > 0.3).astype(float), np.ones(n), np.linspace(0.98, 0, 50)
    assert certify(confidences, student, teacher, thresholds, **asked).threshold is None
    # Of n queries all won by 0.03 each: 0.9 · 0.03 · n nats of capital, and ln 10 are needed.
    assert queries_needed(confidences, student, teacher, thresholds, **asked) == 120
    assert queries_needed(confidences, 0 * student, teacher, thresholds, **asked) is None
