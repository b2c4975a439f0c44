"""Rows of several lengths as one batch, and the order of rows in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.types import Batch

PADDING = -1


def padded_rows(
    read: Sequence[NDArray[np.int64]],
    targets: Sequence[NDArray[np.int64]],
    weights: Sequence[NDArray[np.float32]],
    documents: Sequence[int],
    offsets: Sequence[int],
) -> Batch:
    """One text a row, padding behind it; `offsets` are where in its document each row begins."""
    width = max(len(row) for row in read)
    shape = (len(read), width)
    inputs, wanted, of_document, of_offset = (np.zeros(shape, dtype=np.int64) for _ in range(4))
    counted = np.zeros(shape, dtype=np.float32)
    of_document[:] = PADDING
    for row, (seen, target, weight) in enumerate(zip(read, targets, weights, strict=True)):
        here = slice(0, len(seen))
        inputs[row, here], wanted[row, here], counted[row, here] = seen, target, weight
        of_document[row, here] = documents[row]
        of_offset[row, here] = offsets[row] + np.arange(len(seen))
    positions = np.broadcast_to(np.arange(width), shape).copy()
    return Batch(*(torch.from_numpy(one) for one in (inputs, wanted, counted, of_document, positions, of_offset)))


@lru_cache(maxsize=4)
def shuffled(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """An order of rows, another in each epoch."""
    return np.random.default_rng([seed, 1, epoch]).permutation(rows)
