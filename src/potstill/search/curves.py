"""Where a candidate's learning curve is going: from what it reached after a few tokens, what it will have reached after all of them.

    m(D) = m_inf - A D^-b,  A >= 0

fitted to the bar's own metric, because the distillation loss does not predict it. Two or three points can't tell b, so none is chosen:
every b of a range is fitted by least squares and weighs as much as it fits (a grid over a flat prior). What is predicted is a mixture of
normal distributions, and the width of that range is most of its uncertainty. Students cut from one teacher learn alike: how well each b
fits the curves of the others counts as well, half as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_EXPONENTS = np.linspace(0.1, 1.1, 11)
# Of the last point about the curve, beside what the documents explain: order of the text, noise of training. Of earlier ones it is larger,
# as the square root of their distance: a curve begins to be one late.
_NOISE = 0.003
_OTHERS = 0.5


@dataclass(frozen=True)
class Point:
    """What was reached after so many tokens; `error` is the standard error of the value over documents."""

    tokens: int
    value: float
    error: float


@dataclass(frozen=True)
class Prediction:
    """A mixture: what will be reached, with which weights."""

    means: tuple[float, ...]
    errors: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The expected value."""
        return float(np.dot(self.weights, self.means))

    @property
    def error(self) -> float:
        """The standard deviation of the whole mixture."""
        spread = np.dot(self.weights, np.square(self.errors) + np.square(self.means)) - self.mean**2
        return math.sqrt(max(0.0, float(spread)))

    def chance_of(self, least: float) -> float:
        """The probability of reaching at least so much."""
        parts = zip(self.weights, self.means, self.errors, strict=True)
        return float(sum(w * (1 - NormalDist(m, max(e, 1e-9)).cdf(least)) for w, m, e in parts))


def predict(points: Sequence[Point], tokens: int, prior: NDArray[np.float64] | None = None) -> Prediction:
    """What is reached after `tokens`, from points with fewer. A point at `tokens` itself is the answer.

    The errors of the points over documents are common to all of them: they shift the curve, and are added at the end. `prior`: log weight
    of each exponent, from other curves.
    """
    last = max(points, key=lambda point: point.tokens)
    if last.tokens >= tokens:
        return Prediction((last.value,), (last.error,), (1.0,))
    if len(points) < 2:
        return Prediction((last.value,), (max(last.error, abs(last.value)),), (1.0,))
    fits = [_fit(points, tokens, exponent) for exponent in _EXPONENTS]
    logs = np.array([fit.log_weight for fit in fits]) + (0.0 if prior is None else prior)
    weights = np.exp(logs - logs.max())
    return Prediction(
        tuple(fit.mean for fit in fits),
        tuple(math.hypot(fit.error, last.error) for fit in fits),
        tuple((weights / weights.sum()).tolist()),
    )


def weights_of_exponents(curves: Sequence[Sequence[Point]], tokens: int) -> NDArray[np.float64]:
    """Log weight of each exponent by how well it fits these curves; two points of one say nothing."""
    found = np.zeros(len(_EXPONENTS))
    for points in curves:
        if len(points) > 2:
            found += _OTHERS * np.array([_fit(points, tokens, exponent).log_weight for exponent in _EXPONENTS])
    return found


@dataclass(frozen=True)
class _Fit:
    mean: float
    error: float
    log_weight: float


def _fit(points: Sequence[Point], tokens: int, exponent: float) -> _Fit:
    """Least squares for one exponent: what it says of the end, and how well it fits."""
    share = np.array([point.tokens / tokens for point in points])
    x, y = share**-exponent, np.array([point.value for point in points])
    weights = share / _NOISE**2
    design = np.stack([np.ones_like(x), x], axis=1)
    covariance = np.linalg.inv(design.T * weights @ design)
    level, slope = covariance @ (design.T * weights @ y)
    if slope > 0:  # it got worse: as good as level
        level, slope = float(np.average(y, weights=weights)), 0.0
    at_end = np.array([1.0, 1.0])
    misfit = float((weights * np.square(y - level - slope * x)).sum())
    return _Fit(float(level + slope), math.sqrt(float(at_end @ covariance @ at_end)), -0.5 * misfit)
