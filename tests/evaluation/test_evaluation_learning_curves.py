"""Multipliers of curves whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from random_text import written_down
from sklearn.isotonic import IsotonicRegression

from potstill.errors import DataError
from potstill.evaluation import LearningCurve, differences, multipliers, scores_of_curve
from potstill.evaluation.learning_curves import crossings, falling

SIZES = [1000, 2000, 4000, 8000, 16000]
DOCUMENTS = 12


def curve(
    loss: Callable[[float], float], *, sizes: Sequence[int] = SIZES, seeds: int = 3, noise: float = 0.0, seed: int = 0
) -> LearningCurve:
    """Documents of 100 tokens; `noise` is a training's own, the same for curves of the same `seed`."""
    draw, of_documents = np.random.default_rng(seed), np.random.default_rng(0).normal(0, 0.3, DOCUMENTS)
    found = []
    for size in sizes:
        row = []
        for _ in range(seeds):
            nats = 100 * (loss(size) + of_documents - of_documents.mean() + draw.normal(0, noise))
            hits = 100 - 10 * nats / 100
            row.append(written_down(tokens=[100.0] * DOCUMENTS, nll=nats, hits=hits))
        found.append(row)
    return LearningCurve([[size] * seeds for size in sizes], found)


def hard_loss(tokens: float) -> float:
    return 8.0 - 0.5 * math.log(tokens)


@pytest.mark.parametrize("quality", ["nats_per_token", "accuracy"])
def test_a_saving_that_is_there_is_found(quality: str):
    soft = curve(lambda n: hard_loss(2.5 * n))
    found = multipliers(soft, curve(hard_loss), quality)
    for one in found[2:]:
        assert one.value == pytest.approx(2.5, rel=1e-6)
        assert one.low == pytest.approx(2.5, rel=1e-6)
        assert one.high == pytest.approx(2.5, rel=1e-6)
    assert [one.tokens for one in found] == pytest.approx(SIZES)
    # At the levels of hard labels' two smallest sizes the smallest size of soft ones is better already.
    assert [one.in_words() for one in found] == ["> 1", "> 2", "2.5", "2.5", "2.5"]


def test_nothing_is_said_beyond_the_curves():
    far, worse = curve(lambda n: hard_loss(40 * n)), curve(lambda n: hard_loss(n / 3))
    assert [one.in_words() for one in multipliers(far, curve(hard_loss), "nats_per_token")] == [
        "> 1", "> 2", "> 4", "> 8", "> 16",
    ]  # fmt: skip
    found = multipliers(worse, curve(hard_loss), "nats_per_token")
    assert [one.in_words() for one in found] == ["0.333", "0.333", "0.333", "< 0.5", "< 1"]
    assert found[-1].value == 0


def test_equal_labels_save_nothing():
    for one in multipliers(curve(hard_loss), curve(hard_loss), "nats_per_token"):
        assert one.value == pytest.approx(1)
        assert one.low == pytest.approx(1)


def test_between_two_sizes_the_curve_is_straight_over_the_logarithm():
    """Bent curves: the answer is that of the straight pieces, worked out by hand."""
    soft = LearningCurve([[100], [1000]], [[written_down(tokens=[1.0, 1.0], nll=[nll, nll])] for nll in (4.0, 2.0)])
    hard = LearningCurve([[100], [1000]], [[written_down(tokens=[1.0, 1.0], nll=[nll, nll])] for nll in (5.0, 3.5)])
    last = multipliers(soft, hard, "nats_per_token")[-1]
    assert last.value == pytest.approx(1000 / 10 ** (2 + (4.0 - 3.5) / (4.0 - 2.0)))
    assert last.level == 3.5


def test_a_noisy_plateau_saves_nothing():
    """Labels that are worth the same, on a text of which more doesn't help: as often more as less, and never for sure."""
    wholly_above, medians = 0, []
    for trial in range(12):
        soft, hard = (curve(lambda n: 3.0, noise=0.02, seed=2 * trial + one) for one in (0, 1))
        last = multipliers(soft, hard, "nats_per_token")[-1]
        wholly_above += last.low > 1
        medians.append(last.value > 1)
    assert wholly_above <= 3
    assert 2 <= sum(medians) <= 10


def test_curves_are_made_falling_and_cross_where_they_first_reach_a_level():
    losses = np.array([[3.0, 1.0, 2.0, 2.5, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    x = np.arange(5.0)
    theirs = [IsotonicRegression(increasing=False).fit_transform(x, row) for row in losses]
    np.testing.assert_allclose(falling(losses), theirs)
    rising = crossings(np.tile(x[:3], (2, 1)), np.array([[1.0, 1.2, 0.9], [1.0, 1.2, 1.1]]), np.array([1.0, 1.0]))
    np.testing.assert_array_equal(rising, [0.0, 0.0])


def test_one_document_has_no_interval():
    one = LearningCurve([[10], [20]], [[written_down(tokens=[1.0], nll=[nll])] for nll in (4.0, 2.0)])
    found = multipliers(one, one, "nats_per_token")[-1]
    assert found.value == pytest.approx(1)
    assert np.isnan([found.low, found.high]).all()


def test_intervals_are_wider_with_noisier_seeds_and_hold_the_truth():
    widths = []
    for noise in (0.01, 0.05):
        hard, soft = curve(hard_loss, noise=noise), curve(lambda n: hard_loss(2.0 * n), noise=noise, seed=1)
        one = multipliers(soft, hard, "nats_per_token")[3]
        assert one.low < one.value < one.high
        widths.append(math.log(one.high / one.low))
    assert widths[0] < 0.5 * widths[1]


def test_documents_that_all_labels_share_don_t_widen_a_difference():
    hard, soft = curve(hard_loss), curve(lambda n: hard_loss(n) - 0.1)
    for found in differences(soft, hard, "nats_per_token"):
        assert found.value == pytest.approx(-0.1)
        assert found.high - found.low < 1e-9
    alone = scores_of_curve(soft, "nats_per_token")[0]
    assert alone.value == pytest.approx(hard_loss(1000) - 0.1)
    assert alone.high - alone.low > 0.1
    assert scores_of_curve(soft, "accuracy")[0].value == pytest.approx(1 - 0.1 * alone.value)


def test_what_can_t_be_compared_is_refused():
    one = curve(hard_loss)
    with pytest.raises(DataError, match="two sizes or more"):
        multipliers(
            LearningCurve(one.tokens[:1], one.found[:1]), LearningCurve(one.tokens[:1], one.found[:1]), "accuracy"
        )
    other = LearningCurve(SIZES_OF_ONE, [[written_down(tokens=[5.0])] for _ in SIZES_OF_ONE])
    with pytest.raises(DataError, match="same held-out text"):
        multipliers(one, other, "accuracy")
    with pytest.raises(DataError, match="number of seeds"):
        multipliers(one, curve(hard_loss, seeds=2), "accuracy")
    with pytest.raises(DataError, match="no quality"):
        scores_of_curve(one, "beauty")


SIZES_OF_ONE = [[size] for size in SIZES]
