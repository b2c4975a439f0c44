"""Random numbers that belong to a prediction: the same whoever draws them, in whatever batch and after however many restarts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, keys: NDArray[np.uint64], offsets: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """[predictions, draws] in [0, 1): a function of the seed, the document's key, the prediction's place in it and the draw.

    SplitMix64 (Steele et al. 2014) as a counter-based generator: its output function over a counter.
    """
    start = _mixed(keys.astype(np.uint64) ^ _mixed(np.full(len(keys), seed, dtype=np.uint64)))
    counter = offsets.astype(np.uint64)[:, None] * np.uint64(draws) + np.arange(draws, dtype=np.uint64)
    return (_mixed(start[:, None] + counter * _GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
