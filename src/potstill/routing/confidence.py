"""From signals to P(the student's answer is as good as the teacher's): a rising curve through one signal, or a trained classifier.

Curves are isotonic regressions (pool adjacent violators), centred: each level stretch becomes one point, joined by straight lines
(Oron & Flournoy 2017, arXiv:1701.05964), so that answers on it can still be told apart. Ties at both ends remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from potstill.errors import DataError, MissingExtraError
from potstill.routing.policy import Confidence
from potstill.routing.signals import SIGNALS

Array = np.ndarray
CLASSIFIER = "classifier"
_BINS = 10
_FOLDS = 5
# Of entropy, less is surer.
_DIRECTIONS = {name: -1.0 if name == "entropy" else 1.0 for name in SIGNALS}


@dataclass(frozen=True)
class Fitted:
    """A way to be confident, by a signal's name or `classifier`, and what it said of each query that it was fitted on.

    scores  of the classifier: by classifiers that had not seen the query
    """

    name: str
    confidence: Confidence
    scores: Float[Array, " queries"]


@dataclass(frozen=True)
class Quality:
    """How well confidences tell good answers from others, on queries that they were not fitted on.

    auroc  probability that a good answer is more confident than a bad one; NaN where there are only good or only bad ones
    ece    expected calibration error over ten bins of equally many queries (Guo et al. 2017, arXiv:1706.04599, eq. 3)
    """

    name: str
    auroc: float
    ece: float


def fit_signal(name: str, values: Float[Array, " queries"], good: Float[Array, " queries"]) -> Fitted:
    """By one signal; `good` is 1 where the student's answer is as good as the teacher's, else 0."""
    scores = _DIRECTIONS[name] * values
    return Fitted(name, Confidence((name,), (_DIRECTIONS[name],), 0.0, rising_points(scores, good)), scores)


def fit_classifier(features: Mapping[str, Float[Array, " queries"]], good: Float[Array, " queries"]) -> Fitted:
    """By a logistic regression on all features; its curve is fitted to what it says of queries it has not seen (five folds).

    MissingExtraError without scikit-learn; DataError where too few answers are good, or too few are not.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise MissingExtraError("scikit-learn", extra="route", purpose="a trained classifier") from error
    if min(good.sum(), len(good) - good.sum()) < _FOLDS:
        raise DataError(
            f"a classifier needs {_FOLDS} good answers of the student and {_FOLDS} others to learn from, found {int(good.sum())} and "
            f"{int(len(good) - good.sum())}: give more queries, or choose a signal (--by mean_logprob)"
        )
    names, labels = tuple(features), good.astype(int)
    columns = np.stack([features[name] for name in names], 1)
    middle, spread = columns.mean(0), columns.std(0)
    # What is the same in all rows, but for rounding, tells nothing here, and a weight on it would decide all in other traffic.
    spread[np.ptp(columns, axis=0) <= 1e-9 * np.maximum(1.0, np.abs(middle))] = np.inf
    standard = (columns - middle) / spread
    regression = LogisticRegression(max_iter=1000)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    unseen = np.asarray(cross_val_predict(regression, standard, labels, cv=folds, method="decision_function"), float)
    regression.fit(standard, labels)
    weights = np.asarray(regression.coef_, float)[0] / spread
    intercept = float(np.asarray(regression.intercept_, float)[0] - weights @ middle)
    confidence = Confidence(names, tuple(map(float, weights)), intercept, rising_points(unseen, good))
    return Fitted(CLASSIFIER, confidence, unseen)


def scores_of(confidence: Confidence, features: Mapping[str, Float[Array, " queries"]]) -> Float[Array, " queries"]:
    """The sums of many queries at once; as `Policy.decide` says of each. `on_points` makes probabilities of them."""
    total = np.full(len(next(iter(features.values()))), confidence.intercept)
    for name, weight in zip(confidence.features, confidence.weights, strict=True):
        total = total + weight * features[name]
    return total


def on_points(confidence: Confidence, scores: Float[Array, " queries"]) -> Float[Array, " queries"]:
    """The probabilities that belong to sums."""
    x, y = zip(*confidence.points, strict=True)
    return np.interp(scores, x, y)


def rising_points(x: Float[Array, " queries"], y: Float[Array, " queries"]) -> tuple[tuple[float, float], ...]:
    """The centred isotonic regression of y on x: points that rise in both."""
    levels, places = np.unique(x, return_inverse=True)
    counts = np.bincount(places).astype(float)
    blocks: list[tuple[float, float, float]] = []  # mean of x, mean of y, count
    for block in zip(levels, np.bincount(places, y) / counts, counts, strict=True):
        blocks.append((float(block[0]), float(block[1]), float(block[2])))
        while len(blocks) > 1 and blocks[-2][1] >= blocks[-1][1]:
            last, before = blocks.pop(), blocks.pop()
            count = before[2] + last[2]
            blocks.append(
                (
                    (before[0] * before[2] + last[0] * last[2]) / count,
                    (before[1] * before[2] + last[1] * last[2]) / count,
                    count,
                )
            )
    return tuple((at, min(1.0, max(0.0, level))) for at, level, _ in blocks)


def quality_of(name: str, confidences: Float[Array, " queries"], good: Float[Array, " queries"]) -> Quality:
    """On queries that the confidences were not fitted on."""
    return Quality(name, auroc(confidences, good), calibration_error(confidences, good))


def auroc(scores: Float[Array, " queries"], good: Float[Array, " queries"]) -> float:
    """The area under the ROC curve, as the Mann-Whitney statistic of mid-ranks: ties count half."""
    positives = good.sum()
    negatives = len(good) - positives
    if min(positives, negatives) == 0:
        return float("nan")
    levels, places = np.unique(scores, return_inverse=True)
    counts = np.bincount(places, minlength=len(levels))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[good > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(confidences: Float[Array, " queries"], good: Float[Array, " queries"]) -> float:
    """Σ_bins share · |share of good answers - mean confidence|."""
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    return float(sum(abs(good[part].mean() - confidences[part].mean()) * len(part) for part in parts) / len(good))


def features_of(rows: Sequence[Mapping[str, float]]) -> dict[str, Float[Array, " queries"]]:
    """Columns of what every query has."""
    shared = set.intersection(*(set(row) for row in rows))
    return {name: np.array([row[name] for row in rows], float) for name in rows[0] if name in shared}
