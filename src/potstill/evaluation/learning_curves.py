"""Held-out quality over the size of the text learned from, of several kinds of labels; and how much text one kind saves another.

A multiplier m at some quality says: these labels on n / m tokens do what hard labels do on n. Curves are straight between two sizes on
a logarithmic axis of tokens, and end where the sizes end: what lies beyond is "more than" or "less than" the last that is known.
They are made falling first (pooled where more text did worse), in each draw anew: on a noisy plateau one curve's last size would be
held against the other's luckiest.

What varies from one experiment to another is the seed (which documents, which order, which beginning) and the held-out text: both are
drawn again, the same draws for all labels, which learned from the same text seed by seed. A seed can be drawn, another one not be
made: of three seeds, an interval to which the seeds give most of its width holds the truth about 80 times in 100, not 95.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.evaluation.measuring import Measurement
from potstill.evaluation.scores import interval_of, resampled, summed, units_of
from potstill.types import Score

Array = NDArray[np.float64]
_SEED = 20_260_102

# [draws]-weighted sums of a measurement -> a loss: lower is better for both.
_LOSSES: Mapping[str, Callable[[Measurement], Array]] = {
    "nats_per_token": lambda m: m.nll,
    "accuracy": lambda m: -m.hits,
}
QUALITIES = tuple(_LOSSES)


@dataclass(frozen=True)
class LearningCurve:
    """Students of one kind of labels, from the smallest part of the text to the largest.

    tokens  [sizes][seeds]: predictions (of a classifier: texts) learned from
    found   [sizes][seeds]: what each did on the held-out text
    """

    tokens: Sequence[Sequence[int]]
    found: Sequence[Sequence[Measurement]]


@dataclass(frozen=True)
class Multiplier:
    """How many times more text hard labels need; 95 % interval over seeds and documents.

    Infinity means "more than `most`", 0 "less than `least`": no size was small, or large, enough to tell.

    level   the quality at which both are compared, as hard labels have it on `tokens` tokens
    """

    quality: str
    level: float
    tokens: float
    value: float
    low: float
    high: float
    least: float
    most: float

    def in_words(self, which: float | None = None) -> str:
        """2.1 times; "more than 16" where that is all that is known."""
        value = self.value if which is None else which
        if math.isnan(value):
            return "–"
        if math.isinf(value):
            return f"> {self.most:.3g}"
        return f"< {self.least:.3g}" if value == 0 else f"{value:.3g}"


def scores_of_curve(curve: LearningCurve, quality: str) -> list[Score]:
    """The mean over seeds at each size, in its own sign, with its interval."""
    sign = -1.0 if quality == "accuracy" else 1.0
    losses, _ = _drawn(curve, quality)
    n = int(np.count_nonzero(curve.found[0][0].tokens))
    return [interval_of(quality, sign * losses[:, size], n) for size in range(losses.shape[1])]


def differences(curve: LearningCurve, other: LearningCurve, quality: str) -> list[Score]:
    """curve - other at each size of both, in the quality's own sign, on the same draws of seeds and documents.

    DataError where the two are not of the same text.
    """
    sign = -1.0 if quality == "accuracy" else 1.0
    _check_is_same_text(curve, other)
    ours, theirs = _drawn(curve, quality)[0], _drawn(other, quality)[0]
    n = int(np.count_nonzero(curve.found[0][0].tokens))
    return [interval_of(f"{quality} difference", sign * (ours - theirs)[:, size], n) for size in range(ours.shape[1])]


def multipliers(soft: LearningCurve, hard: LearningCurve, quality: str) -> list[Multiplier]:
    """n_hard / n_soft where hard labels are on each of their sizes. DataError where the two are not of the same text and sizes."""
    _check_is_same_text(soft, hard)
    if len(soft.tokens) != len(hard.tokens) or len(soft.tokens) < 2:
        raise DataError(
            f"two curves of the same two sizes or more are compared, found {len(soft.tokens)} and {len(hard.tokens)}"
        )
    sign = -1.0 if quality == "accuracy" else 1.0
    (ours, our_sizes), (theirs, their_sizes) = _drawn(soft, quality), _drawn(hard, quality)
    ours, theirs = falling(ours), falling(theirs)
    documents, found = int(np.count_nonzero(hard.found[0][0].tokens)), []
    for size in range(theirs.shape[1]):
        ratios = their_sizes[:, size] - crossings(our_sizes, ours, theirs[:, size])
        low, high = _interval(ratios[1:]) if documents > 1 else (math.nan, math.nan)
        ends = their_sizes[0, size] - our_sizes[0, [-1, 0]]
        level, tokens = sign * theirs[0, size], math.exp(their_sizes[0, size])
        values = (math.exp(one) for one in (ratios[0], low, high, *ends))
        found.append(Multiplier(quality, float(level), tokens, *values))
    return found


def falling(losses: Array) -> Array:
    """The nearest curves [draws, sizes] that never rise (isotonic regression): min over i <= k of max over j >= k of the mean of i..j."""
    sizes = losses.shape[1]
    means = {(i, j): losses[:, i : j + 1].mean(1) for i in range(sizes) for j in range(i, sizes)}
    found = [
        np.min([np.max([means[i, j] for j in range(k, sizes)], axis=0) for i in range(k + 1)], axis=0)
        for k in range(sizes)
    ]
    return np.stack(found, 1)


def crossings(sizes: Array, losses: Array, levels: Array) -> Array:
    """[draws]: the logarithmic size at which each curve [draws, sizes] first comes down to its level.

    Its smallest size where that lies on the level, -inf where it lies below already, inf where no size comes down to it.
    """
    found = np.full(len(levels), np.inf)
    for size in reversed(range(losses.shape[1] - 1)):
        here, after = losses[:, size], losses[:, size + 1]
        is_between = (here >= levels) & (after <= levels)
        share = (here - levels) / np.where(here > after, here - after, 1.0)
        found = np.where(is_between, sizes[:, size] + share * (sizes[:, size + 1] - sizes[:, size]), found)
    found = np.where(losses[:, 0] == levels, sizes[:, 0], found)
    return np.where(losses[:, 0] < levels, -np.inf, found)


def _drawn(curve: LearningCurve, quality: str) -> tuple[Array, Array]:
    """(losses, logarithms of sizes), each [1 + draws, sizes]: of everything as it is, then of each draw."""
    if quality not in _LOSSES:
        raise DataError(f"there is no quality {quality!r}: choose among {', '.join(QUALITIES)}")
    tokens = curve.found[0][0].tokens
    unit = units_of(tokens)
    documents = resampled(int(unit.max()) + 1)
    seeds = _drawn_seeds(len(curve.tokens[0]), len(documents))
    below = documents @ summed(tokens, unit)
    losses = [
        sum(
            seeds[:, number] * (documents @ summed(_LOSSES[quality](found), unit)) / below
            for number, found in enumerate(row)
        )
        for row in curve.found
    ]
    return np.stack([np.asarray(loss) for loss in losses], 1), seeds @ np.log(np.asarray(curve.tokens, float)).T


@lru_cache(maxsize=2)
def _drawn_seeds(seeds: int, rows: int) -> Array:
    """[1 + draws, seeds]: each one's share of the mean."""
    counts = np.random.default_rng(_SEED).multinomial(seeds, np.full(seeds, 1 / seeds), size=rows - 1)
    return np.concatenate([np.ones((1, seeds)), counts.astype(float)]) / seeds


def _interval(ratios: Array) -> tuple[float, float]:
    """95 % of the draws lie between; the ends are draws themselves, for there is no middle of a number and infinity."""
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _check_is_same_text(one: LearningCurve, other: LearningCurve) -> None:
    first = one.found[0][0].tokens
    every = (found for curve in (one, other) for row in curve.found for found in row)
    if not all(np.array_equal(found.tokens, first) for found in every):
        raise DataError("these students were not measured on the same held-out text, so they can't be compared")
    if np.shape(one.tokens)[1] != np.shape(other.tokens)[1]:
        raise DataError("these curves are not of the same number of seeds, so they can't be compared seed by seed")
