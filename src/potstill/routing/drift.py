"""Whether traffic still looks as it did when the promise was made: the promise holds for such traffic alone.

The sums behind confidences (`Decision.score`) are counted in the bins of the calibration's histogram, and the last `window` of them
compared with it:

    psi = Σ_bins (p - q) · ln(p / q)            population stability index; 0.1 is some shift, 0.25 a large one by custom; fires beyond
                                                that and beyond (1/n + 1/m) · χ²(bins - 1), which it is distributed as where nothing
                                                has moved
    ks  = max_edges |P(edge) - Q(edge)|         two-sample Kolmogorov-Smirnov at the edges; fires beyond c · √(1/n + 1/m),
                                                c = √(ln(2/α) / 2), which equal distributions exceed in less than a share α of windows
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from potstill.routing.policy import Histogram

PSI_LIMIT = 0.25
# Of windows, not of queries; half of a pseudo-count a bin keeps the logarithm finite.
_ALPHA, _PSEUDO_COUNT = 0.001, 0.5


@dataclass(frozen=True)
class Drift:
    """How far the last n scores are from the calibration's. `reason` is empty where nothing is amiss."""

    n: int
    psi: float
    ks: float
    ks_limit: float
    reason: str

    @property
    def fires(self) -> bool:
        """Whether the promise should be made anew."""
        return bool(self.reason)


class DriftAlarm:
    """Watches the scores of a policy's decisions, `window` at a time."""

    def __init__(self, histogram: Histogram, *, window: int = 500, psi_limit: float = PSI_LIMIT) -> None:
        self._histogram, self._psi_limit = histogram, psi_limit
        self._bins: deque[int] = deque(maxlen=window)
        self._counts = np.zeros(len(histogram.shares), np.int64)

    def see(self, score: float) -> Drift | None:
        """One more query; how things stand, or None while the window is not full."""
        if len(self._bins) == self._bins.maxlen:
            self._counts[self._bins[0]] -= 1
        place = int(np.searchsorted(self._histogram.edges, score, side="right"))
        self._bins.append(place)
        self._counts[place] += 1
        if len(self._bins) < (self._bins.maxlen or 0):
            return None
        return drift_of(self._counts, self._histogram, psi_limit=self._psi_limit)


def drift_of(counts: np.ndarray, histogram: Histogram, *, psi_limit: float = PSI_LIMIT) -> Drift:
    """Counts in the histogram's bins against it."""
    n, m, bins = int(counts.sum()), histogram.n, len(counts)
    then = np.asarray(histogram.shares)
    p = (counts + _PSEUDO_COUNT) / (n + _PSEUDO_COUNT * bins)
    q = (then * m + _PSEUDO_COUNT) / (m + _PSEUDO_COUNT * bins)
    psi = float(((p - q) * np.log(p / q)).sum())
    ks = float(np.abs(np.cumsum(counts / max(n, 1) - then)).max())
    ks_limit = math.sqrt(math.log(2 / _ALPHA) / 2 * (1 / max(n, 1) + 1 / max(m, 1)))
    psi_limit = max(psi_limit, (1 / max(n, 1) + 1 / max(m, 1)) * _chi_square(bins - 1))
    reasons = []
    if psi > psi_limit:
        reasons.append(f"stability index {psi:.2f} > {psi_limit:.2f}")
    if ks > ks_limit:
        reasons.append(f"Kolmogorov-Smirnov distance {ks:.3f} > {ks_limit:.3f}")
    return Drift(n, psi, ks, ks_limit, "; ".join(reasons))


def _chi_square(freedom: int) -> float:
    """What chi-square exceeds with probability α, by Wilson and Hilferty's cube of a normal deviate."""
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + NormalDist().inv_cdf(1 - _ALPHA) * math.sqrt(spread)) ** 3


def histogram_of(scores: np.ndarray, *, bins: int = 10) -> Histogram:
    """Bins that hold about equally many; a value that more than two bins' worth of scores have is a bin of its own."""
    values, numbers = np.unique(scores, return_counts=True)
    often = values[numbers > 2 * len(scores) / bins]
    edges = np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="higher")
    edges = np.unique(np.concatenate([edges[edges > values[0]], often, np.nextafter(often, np.inf)]))
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
    return Histogram(tuple(map(float, edges)), tuple(map(float, counts / len(scores))), len(scores))
