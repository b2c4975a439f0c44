"""Scores with 95 % confidence intervals, from the sums of a Measurement.

What varies from one held-out set to another is the documents in it, so the documents are what the bootstrap draws again:
2,000 times, each a multinomial count of how often each document was drawn (Efron & Tibshirani 1993, ch. 13: percentiles).
Two models are compared on the same draws. The draws are the same every time, so a score is a function of its measurement.
One document says nothing about others: its interval is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.evaluation.measuring import Measurement
from potstill.types import Score

Array = NDArray[np.float64]
_DRAWS = 2_000
_SEED = 20_260_101
# Beyond so many, groups of documents are drawn instead of single ones: as good, and the draws stay below 64 MiB.
_MOST_UNITS = 4_000

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
# What compares models that cut one text into different tokens.
OF_ANY_TOKENS = frozenset({"bits_per_byte"})
NEEDS_TEACHER = frozenset({"kl_to_teacher", "agreement"})


def score(measurement: Measurement, metric: str) -> Score:
    """A metric over all counted predictions, with its bootstrap interval over the n documents that have any.

    Raises DataError for an unknown metric, one that needs a teacher that was not there, or a measurement of nothing.
    """
    values = _values(measurement, metric)
    found = _score(metric, values, measurement)
    return _widened(found) if metric == "calibration_error" else found


def retention(student: Measurement, teacher: Measurement, metric: str) -> Score:
    """What the student keeps of its teacher: student / teacher, or teacher / student where lower is better; 1 = all of it.

    Raises DataError as `difference` does, and for the KL, of which the teacher has none to keep.
    """
    if metric == "kl_to_teacher":
        raise DataError("the teacher's KL to itself is 0, so no share of it can be kept: choose another metric")
    ours, theirs = _paired(student, teacher, metric)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = theirs / ours if metric in LOWER_IS_BETTER else ours / theirs
    # Also where both are 0, in a draw of few documents on which both fail.
    return _score(f"{metric} retention", np.where(ours == theirs, 1.0, ratio), student)


def difference(one: Measurement, other: Measurement, metric: str) -> Score:
    """one - other, on the same draws of documents: an interval that leaves out 0 is a difference.

    Raises DataError as `score` does, and when the two are not of the same documents.
    """
    ours, theirs = _paired(one, other, metric)
    with np.errstate(invalid="ignore"):
        return _score(f"{metric} difference", ours - theirs, one)


def _paired(one: Measurement, other: Measurement, metric: str) -> tuple[Array, Array]:
    is_same_text = np.array_equal(one.bytes, other.bytes)
    if not (is_same_text and (metric in OF_ANY_TOKENS or np.array_equal(one.tokens, other.tokens))):
        raise DataError(
            f"these two measurements ({len(one):,} and {len(other):,} documents) are not of the same predictions, so they "
            "can't be compared: measure both on the same text, with the same tokenizer and length"
        )
    return _values(one, metric), _values(other, metric)


def _values(measurement: Measurement, metric: str) -> Array:
    """[1 + draws]: the metric on the text as it is, then on each draw."""
    if metric not in _FORMULAS:
        raise DataError(f"there is no metric {metric!r}: choose among {', '.join(METRICS)}")
    if metric in NEEDS_TEACHER and not measurement.has_teacher:
        raise DataError(
            f"{metric!r} needs a teacher, and this model was measured without one: measure it again beside one"
        )
    units = _units(measurement)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return _FORMULAS[metric](units, resampled(len(units)))


def _units(measurement: Measurement) -> Measurement:
    """What is drawn: each document with a prediction in it, or, where these are very many, groups of them."""
    unit = units_of(measurement.tokens)
    return Measurement(**{field.name: summed(getattr(measurement, field.name), unit) for field in fields(Measurement)})


def units_of(tokens: Array) -> NDArray[np.int64]:
    """The number of the unit that each document is drawn in, -1 for one without a prediction; DataError where all are."""
    documents = np.flatnonzero(tokens)
    if len(documents) == 0:
        raise DataError("no document has a prediction that counts, so there is nothing to score")
    unit = np.full(len(tokens), -1)
    unit[documents] = np.arange(len(documents)) % _MOST_UNITS
    return unit


def summed(sums: Array, unit: NDArray[np.int64]) -> Array:
    """Sums over documents [documents, ...] as sums over units [units, ...]."""
    into = np.zeros((unit.max() + 1, *sums.shape[1:]))
    np.add.at(into, unit[unit >= 0], sums[unit >= 0])
    return into


@lru_cache(maxsize=1)
def resampled(units: int) -> Array:
    """[1 + draws, units]: how often each unit counts; the first row is the text as it is."""
    counts = np.random.default_rng(_SEED).multinomial(units, np.full(units, 1 / units), size=_DRAWS)
    draws = np.concatenate([np.ones((1, units)), counts.astype(np.float64)])
    draws.flags.writeable = False
    return draws


def _score(metric: str, values: Array, measurement: Measurement) -> Score:
    return interval_of(metric, values, int(np.count_nonzero(measurement.tokens)))


def interval_of(metric: str, values: Array, n: int) -> Score:
    """The first of these values with the 95 % interval of the others, its draws over n documents."""
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(values[1:], [2.5, 97.5]) if n > 1 else (np.nan, np.nan)
    return Score(metric, float(values[0]), float(low), float(high), n)


def _widened(found: Score) -> Score:
    """The hull of the percentile interval and its mirror image about the value.

    Noise makes a small calibration error larger, and drawing again adds as much noise once more: for a calibrated model all
    draws can lie above the value, which itself lies above the truth. Mirrored, they lie as far below. In simulations the
    hull held the truth 89 to 98 times in 100, and 71 to 80 for a model calibrated exactly, where percentiles alone never did.
    """
    low = np.fmax(0.0, np.minimum(found.low, 2 * found.value - found.high)) if found.n > 1 else np.nan
    high = np.maximum(found.high, 2 * found.value - found.low)
    return Score(found.metric, found.value, float(low), float(high), found.n)
