"""Scores with 95 % confidence intervals, from the sums of a Measurement.

What varies from one held-out set to another is the documents in it, so the documents are what the bootstrap draws again:
2,000 times, each a multinomial count of how often each document was drawn. Two models are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.evaluation.measuring import Measurement
from potstill.types import Score

Array = NDArray[np.float64]
_DRAWS = 2_000
_SEED = 20_260_101

# Each takes weighted sums over documents, [..., documents] @ per-document sums.
_FORMULAS: Mapping[str, Callable[[Measurement, Array], Array]] = {
    "accuracy": lambda m, w: w @ m.hits / (w @ m.tokens),
    "perplexity": lambda m, w: np.exp(w @ m.nll / (w @ m.tokens)),
    "nats_per_token": lambda m, w: w @ m.nll / (w @ m.tokens),
    "bits_per_byte": lambda m, w: w @ m.nll / np.log(2) / (w @ m.bytes),
    "kl_to_teacher": lambda m, w: w @ m.kl / (w @ m.tokens),
    "agreement": lambda m, w: w @ m.agreements / (w @ m.tokens),
    # Expected calibration error (Guo et al. 2017, arXiv:1706.04599): Σ_bins share · |accuracy - confidence|.
    "calibration_error": lambda m, w: np.abs(w @ m.right - w @ m.confidence).sum(-1) / (w @ m.count).sum(-1),
}
METRICS = tuple(_FORMULAS)
LOWER_IS_BETTER = frozenset({"perplexity", "nats_per_token", "bits_per_byte", "kl_to_teacher", "calibration_error"})


def score(measurement: Measurement, metric: str) -> Score:
    """A metric over all counted predictions, with its bootstrap interval."""
    found = _values(measurement, metric, _draws(len(measurement)))
    return _score(metric, found, len(measurement))


def retention(student: Measurement, teacher: Measurement, metric: str) -> Score:
    """What the student keeps of its teacher: student / teacher, or teacher / student where lower is better; 1 = all of it."""
    ours, theirs = _paired(student, teacher, metric)
    ratio = theirs / ours if metric in LOWER_IS_BETTER else ours / theirs
    return _score(f"{metric} retention", ratio, len(student))


def difference(one: Measurement, other: Measurement, metric: str) -> Score:
    """one - other, on the same draws of documents: an interval that leaves out 0 is a difference."""
    ours, theirs = _paired(one, other, metric)
    return _score(f"{metric} difference", ours - theirs, len(one))


def _paired(one: Measurement, other: Measurement, metric: str) -> tuple[Array, Array]:
    if len(one) != len(other) or not np.array_equal(one.tokens, other.tokens):
        raise DataError("these two measurements are not of the same documents, so they can't be compared")
    draws = _draws(len(one))
    return _values(one, metric, draws), _values(other, metric, draws)


def _draws(documents: int) -> Array:
    """[1 + draws, documents]: how often each document counts; the first row is the text as it is."""
    if documents == 0:
        raise DataError("there is no document to score on")
    counts = np.random.default_rng(_SEED).multinomial(documents, np.full(documents, 1 / documents), size=_DRAWS)
    return np.concatenate([np.ones((1, documents)), counts.astype(np.float64)])


def _values(measurement: Measurement, metric: str, draws: Array) -> Array:
    if metric not in _FORMULAS:
        raise DataError(f"there is no metric {metric!r}: choose among {', '.join(METRICS)}")
    with np.errstate(invalid="ignore", divide="ignore"):
        return _FORMULAS[metric](measurement, draws)


def _score(metric: str, values: Array, n: int) -> Score:
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Score(metric, float(values[0]), float(low), float(high), n)
