"""A threshold that keeps a promise: quality of the mix >= rho · the teacher's, with probability >= 1 - delta.

With scores s (student) and t (teacher) in [0, 1] and A = [confidence >= λ], the mix has the quality E[A s + (1 - A) t], and that is
at least rho · E[t] exactly where the paired net loss

    Z(λ) = A (t - s) - (1 - rho) t        in [-1, rho]

has E[Z(λ)] <= 0. Losing where the teacher alone is right is paid for by winning where the student alone is, which one-sided losses
don't count. Three steps, all valid at any n:

* Learn then test (Angelopoulos, Bates, Candès, Jordan, Lei 2021, arXiv:2110.01052): each λ of a grid stands for the hypothesis
  H(λ): E[Z(λ)] > 0, and has a p-value; any procedure that controls the family-wise error at delta gives a set of λ that are all
  right with probability >= 1 - delta.
* Fixed-sequence testing (ibid., sec. 2.3): hypotheses in an order that was fixed beforehand, from few answers by the student to
  all, each at the full level delta, until the first that is not rejected.
* The p-value of a bet (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", arXiv:2010.09686):
  with bets b_i that depend on the past alone, the capital

      K_i = Π_{j<=i} (1 - b_j Z_j),   0 <= b_j < 1/rho

  is a nonnegative supermartingale under H(λ), as E[1 - b Z] <= 1 there, so P(max_i K_i >= 1/delta) <= delta (Ville), and
  1 / max_i K_i is a p-value. Bets are the predictable plug-ins of the paper, of X = (Z + 1) / (1 + rho) in [0, 1]:

      b_i = √(2 ln(1/delta) / (n σ²_{i-1})) / (1 + rho), at most 0.9 / rho
      σ²_i = (1/4 + Σ_{j<=i} (X_j - μ_j)²) / (i + 1),  μ_i = (1/2 + Σ_{j<=i} X_j) / (i + 1)

The grid and the confidences come from other queries than the test: they are constants to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Array = np.ndarray
# What a bet leaves of the capital in the worst case; it decides power, not validity.
_MOST_BET = 0.9
_GRID = 50
# A promise that covers less of the traffic is none worth having.
_WORTHWHILE = 0.05
_GROWTHS, _RESAMPLES, _OFTEN_ENOUGH = 8, 20, 0.8


@dataclass(frozen=True)
class Certified:
    """The lowest threshold with a promise, None where there is none; p-values of the thresholds tested, in their order."""

    threshold: float | None
    p_values: tuple[float, ...]


def net_loss(
    accepted: Float[Array, "*thresholds queries"],
    student: Float[Array, " queries"],
    teacher: Float[Array, " queries"],
    rho: float,
) -> Float[Array, "*thresholds queries"]:
    """Z = A (t - s) - (1 - rho) t, where A is 1 for the student's answers and 0 for the teacher's."""
    return accepted * (teacher - student) - (1 - rho) * teacher


def betting_p_value(
    losses: Float[Array, "*hypotheses queries"], *, rho: float, delta: float
) -> Float[Array, "*hypotheses"]:
    """Of the hypothesis that these losses in [-1, rho] have a mean above 0, made for a test at level delta."""
    n = losses.shape[-1]
    count = np.arange(1, n + 1)
    x = (losses + 1) / (1 + rho)
    mean = (0.5 + np.cumsum(x, -1)) / (count + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2, -1)) / (count + 1)
    before = np.concatenate([np.full_like(variance[..., :1], 0.25), variance[..., :-1]], -1)
    bets = np.minimum(np.sqrt(2 * math.log(1 / delta) / (n * before)) / (1 + rho), _MOST_BET / rho)
    capital = np.cumsum(np.log1p(-bets * losses), -1).max(-1)
    return np.asarray(np.exp(-np.maximum(capital, 0.0)))


def thresholds_of(confidences: Float[Array, " queries"]) -> Float[Array, " thresholds"]:
    """The grid, highest first: what lets through 2 %, 4 %, ... of these confidences, and 0, which lets all through.

    They must not be of the queries that the promise is tested on.
    """
    shares = np.arange(1, _GRID) / _GRID
    return np.append(np.unique(np.quantile(confidences, shares, method="higher"))[::-1], 0.0)


def certify(
    confidences: Float[Array, " queries"],
    student: Float[Array, " queries"],
    teacher: Float[Array, " queries"],
    thresholds: Float[Array, " thresholds"],
    *,
    rho: float,
    delta: float,
) -> Certified:
    """The lowest threshold such that this and all higher ones are rejected at level delta. Queries must be in random order."""
    found, p_values = None, []
    for threshold in thresholds:
        losses = net_loss((confidences >= threshold).astype(float), student, teacher, rho)
        p_values.append(float(betting_p_value(losses, rho=rho, delta=delta)))
        if not p_values[-1] <= delta:  # nor where it is NaN
            break
        found = float(threshold)
    return Certified(found, tuple(p_values))


def queries_needed(
    confidences: Float[Array, " queries"],
    student: Float[Array, " queries"],
    teacher: Float[Array, " queries"],
    thresholds: Float[Array, " thresholds"],
    *,
    rho: float,
    delta: float,
) -> int | None:
    """About how many queries such a promise takes: the first of 2 n, 4 n, ... of which 80 % of resamples certify 5 % of the traffic.

    None: by what was seen no number would do, or more than 256 n. An estimate; it promises nothing.
    """
    n, random = len(student), np.random.default_rng(0)
    shares = (confidences[None] >= thresholds[:, None]).mean(1)
    first = thresholds[: int(np.argmax(shares >= _WORTHWHILE)) + 1]
    accepted = confidences >= first[-1]
    if net_loss(accepted.astype(float), student, teacher, rho).mean() >= 0:
        return None
    for growth in range(1, _GROWTHS + 1):
        wins = 0
        for _ in range(_RESAMPLES):
            drawn = random.integers(n, size=n * 2**growth)
            result = certify(confidences[drawn], student[drawn], teacher[drawn], first, rho=rho, delta=delta)
            wins += result.threshold == first[-1]
        if wins >= _OFTEN_ENOUGH * _RESAMPLES:
            return n * 2**growth
    return None
