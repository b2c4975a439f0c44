"""What travels between codec and shard: flat arrays, and how many of their entries belong to each prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Some predictions, encoded: arrays by the name of their stream, and the number of entries a prediction has in each."""

    arrays: Mapping[str, NDArray]
    counts: Mapping[str, Counts]

    def __len__(self) -> int:
        return len(next(iter(self.counts.values())))

    def take(self, order: NDArray[np.int64]) -> Encoded:
        """These predictions, in this order."""
        return Encoded(
            {name: array[_places(self.counts[name], order)] for name, array in self.arrays.items()},
            {name: counts[order] for name, counts in self.counts.items()},
        )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """One after another."""
    names = parts[0].arrays
    return Encoded(
        {name: np.concatenate([part.arrays[name] for part in parts]) for name in names},
        {name: np.concatenate([part.counts[name] for part in parts]) for name in names},
    )


@dataclass(frozen=True)
class Ragged:
    """Decoded sparse labels. ids, probs: of all predictions end to end; counts: how many a prediction; rest: as in SparseTargets."""

    ids: NDArray[np.int64]
    probs: NDArray[np.float32]
    counts: Counts
    rest: NDArray[np.float32] | None = None


def gaps_of(ranks: NDArray[np.int64], counts: Counts) -> NDArray[np.uint32]:
    """Ascending numbers of each prediction as the first one and the gaps after it."""
    gaps = np.diff(ranks, prepend=0)
    first = (np.cumsum(counts) - counts)[counts > 0]
    gaps[first] = ranks[first]
    return gaps.astype(np.uint32)


def sums_of_gaps(gaps: NDArray[np.uint32], counts: Counts) -> NDArray[np.int64]:
    """The numbers back from their gaps."""
    sums = np.cumsum(gaps, dtype=np.int64)
    first = np.cumsum(counts) - counts
    before = np.concatenate([[0], sums])[first]
    return sums - np.repeat(before, counts)


def _places(counts: Counts, order: NDArray[np.int64]) -> NDArray[np.int64]:
    starts, sizes = (np.cumsum(counts) - counts)[order], counts[order]
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
