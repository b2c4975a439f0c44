"""Quality and cost against the share of queries that the student answers, beside routing at random and routing that knows the scores.

PGR, APGR and CPT are those of Ong et al. 2024 (RouteLLM, arXiv:2406.18665, sec. 3): with the quality r at some share of calls to
the teacher, S of the student and T of the teacher alone,

    PGR = (r - S) / (T - S)        performance gap recovered
    APGR = ∫ PGR d(share of calls to the teacher), 0 to 1; routing at random has 0.5
    CPT(x) = the least share of calls to the teacher at which PGR >= x

There is no gap to recover, and none of them, where the student is as good as the teacher.

None of these is a promise: they say what is in the signal, not what a threshold keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from potstill.types import Score

Array = np.ndarray
RETENTIONS = (0.95, 0.97, 0.99)
RECOVERED = (0.5, 0.8)
_POINTS = 101
_DRAWS = 500
_SEED = 20_260_101


@dataclass(frozen=True)
class CostCurve:
    """Quality at each share of queries answered by the student, with a 95 % band from a bootstrap over n queries.

    quality  of the router; `low` and `high` its band
    oracle   of one that knows both scores
    chance   of routing at random: a straight line
    """

    shares: Float[Array, " points"]
    quality: Float[Array, " points"]
    low: Float[Array, " points"]
    high: Float[Array, " points"]
    oracle: Float[Array, " points"]
    chance: Float[Array, " points"]
    figures: Mapping[str, Score]


@dataclass(frozen=True)
class Costs:
    """What one query costs, in any unit: a cascade asks the student always, and the teacher too where the student is not sure."""

    student: float
    teacher: float
    unit: str

    def relative(self, share: float) -> float:
        """Of the cascade, as a share of asking the teacher alone, where the student answers this share of queries."""
        return (self.student + (1 - share) * self.teacher) / self.teacher

    @property
    def break_even(self) -> float:
        """The share of queries that the student must answer before the cascade costs less than the teacher alone."""
        return self.student / self.teacher


def cost_curve(
    confidences: Float[Array, " queries"], student: Float[Array, " queries"], teacher: Float[Array, " queries"]
) -> CostCurve:
    """The curve and its figures: apgr, cpt_50, cpt_80, share_95, share_97, share_99, and teacher, student."""
    n, shares = len(student), np.linspace(0, 1, _POINTS)
    order, (_, places) = np.argsort(-confidences, kind="stable"), np.unique(confidences, return_inverse=True)
    random = np.random.default_rng(_SEED)
    quality, means = [], []
    for weights in (np.ones(n), *(random.multinomial(n, np.full(n, 1 / n)) for _ in range(_DRAWS))):
        means.append((weights @ student / n, weights @ teacher / n))
        quality.append(_quality(order, _tied(places, teacher - student, weights), teacher, weights, shares))
    values, both = np.array(quality), np.array(means)
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    knowing = np.argsort(teacher - student, kind="stable")
    oracle = _quality(knowing, teacher - student, teacher, np.ones(n), shares)
    chance = both[0, 1] + shares * (both[0, 0] - both[0, 1])
    return CostCurve(shares, values[0], low, high, oracle, chance, _figures(values, both, shares, n))


def share_at_random(quality: float, student: float, teacher: float) -> float:
    """The share that routing at random may leave to the student at this quality; 1 where the student is no worse than that."""
    return 1.0 if student >= quality else max(0.0, (teacher - quality) / (teacher - student))


def _quality(order: Array, lost: Array, teacher: Array, weights: Array, shares: Array) -> Array:
    """[points]: quality where the first in order are the student's, at shares of all queries, each counted by its weight."""
    total = weights.sum()
    reached = np.concatenate([[0.0], np.cumsum(weights[order])]) / total
    gone = np.concatenate([[0.0], np.cumsum((weights * lost)[order])]) / total
    return weights @ teacher / total - np.interp(shares, reached, gone)


def _tied(places: Array, lost: Array, weights: Array) -> Array:
    """What is lost at each query of a draw; those in one place, of equal confidence, share it, as no threshold can part them."""
    counts = np.bincount(places, weights)
    return (np.bincount(places, weights * lost) / np.maximum(counts, 1e-12))[places]


def _figures(quality: Array, means: Array, shares: Array, n: int) -> dict[str, Score]:
    student, teacher = means[:, :1], means[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        recovered = np.where(teacher > student, (quality - student) / (teacher - student), np.nan)
    found = {
        "teacher": teacher[:, 0],
        "student": student[:, 0],
        "apgr": (recovered[:, 1:] + recovered[:, :-1]).mean(1) / 2,
    }
    for level in RECOVERED:
        calls = np.where(np.isnan(recovered[:, :1]), np.nan, 1 - _last(recovered >= level, shares)[:, None])
        found[f"cpt_{level:.0%}".rstrip("%")] = calls[:, 0]
    for level in RETENTIONS:
        found[f"share_{level:.0%}".rstrip("%")] = _last(quality >= level * teacher - 1e-12, shares)
    return {name: _score(name, values, n) for name, values in found.items()}


def _last(holds: Array, shares: Array) -> Array:
    """The largest share at which it holds, in each draw."""
    return np.where(holds, shares, 0.0).max(1)


def _score(name: str, values: Array, n: int) -> Score:
    low, high = np.quantile(values[1:], [0.025, 0.975]) if np.isfinite(values).all() else (np.nan, np.nan)
    return Score(name, float(values[0]), float(low), float(high), n)
