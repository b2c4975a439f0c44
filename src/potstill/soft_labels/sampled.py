"""The tier `sampled`: an unbiased sample of the teacher's distribution, a few tokens a prediction.

Tokens with probability tau or more (the head) are kept, all others (the tail) are sampled: the scheme with the least variance
for its expected number of records (Duffield, Lund & Thorup 2007), and one tau for all predictions is the best split between
sure ones and unsure ones.

Everything is counted in units of tau / 4. One systematic sample lays 4 / tau points, with one random shift, over the distribution
with the tail as a single last event: a head token gets its probability in units, rounded up or down; the tail gets the units that are
left. A second one gives them to tail tokens, tau or a little less to each. So the expectation of every
token's stored probability is exactly its probability, and the stored ones sum to exactly 1 (quantised logarithms could do neither).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from potstill.soft_labels.streams import Encoded, Ragged, gaps_of, sums_of_gaps

# Units in tau: what the rounding of the head adds to the error is 1 / 16 of what sampling the tail does.
FINENESS = 4
_BLOCK = 512


@dataclass(frozen=True)
class Sampled:
    """`tau`: the probability from which on a token is kept for sure, and the weight of a sampled one."""

    tau: float = 0.05

    @property
    def units(self) -> int:
        """How many the whole distribution has."""
        return math.ceil(FINENESS / self.tau - 1e-9)

    def encode(self, probs: Tensor, noise: Tensor, ranks: Tensor) -> Encoded:
        """`probs` [predictions, tokens] is overwritten; `noise` [predictions, 2] in [0, 1); `ranks` [tokens] renumbers the tokens."""
        # Blocks of tokens: what most of a row is can be passed over by its largest entry or its sum.
        blocks = probs if probs.shape[1] % _BLOCK == 0 else functional.pad(probs, (0, -probs.shape[1] % _BLOCK))
        blocks = blocks.unflatten(1, (-1, _BLOCK))
        rows, ids, values = self._head_(blocks)
        sums = blocks.sum(-1).double().cumsum(-1)
        units, tail_units = self._units(rows, values, sums[:, -1], noise[:, 0])
        tail_rows, tail_ids = self._tail(blocks, sums, tail_units, noise[:, 1])
        head_counts, tail_counts = (
            torch.bincount(some, minlength=len(probs)).cpu().numpy() for some in (rows, tail_rows)
        )
        head, order = _sorted_within(rows, ranks[ids])
        tail, _ = _sorted_within(tail_rows, ranks[tail_ids])
        return Encoded(
            {
                "head_count": head_counts.astype(np.uint16),
                "head_rank": gaps_of(head.cpu().numpy(), head_counts),
                "head_units": (units[order].cpu().numpy() - FINENESS).astype(np.uint16),
                "tail_rank": gaps_of(tail.cpu().numpy(), tail_counts),
            },
            {
                "head_count": np.ones(len(probs), dtype=np.int64),
                "head_rank": head_counts,
                "head_units": head_counts,
                "tail_rank": tail_counts,
            },
        )

    def decode(self, streams: Mapping[str, NDArray], tokens_of_rank: NDArray[np.int64]) -> Ragged:
        """The sample of each prediction: its head, then its tail."""
        head_counts, head_units = (streams[name].astype(np.int64) for name in ("head_count", "head_units"))
        head_units += FINENESS
        head_starts = np.cumsum(head_counts) - head_counts
        sums = np.concatenate([[0], np.cumsum(head_units)])
        tail_units = self.units - (sums[head_starts + head_counts] - sums[head_starts])
        tail_counts = -(-tail_units // FINENESS)
        counts = head_counts + tail_counts
        starts = np.cumsum(counts) - counts
        head, tail = (
            np.arange(some.sum()) + np.repeat(first - (np.cumsum(some) - some), some)
            for some, first in ((head_counts, starts), (tail_counts, starts + head_counts))
        )
        ids, probs = np.empty(counts.sum(), dtype=np.int64), np.empty(counts.sum(), dtype=np.float32)
        ids[head] = tokens_of_rank[sums_of_gaps(streams["head_rank"], head_counts)]
        ids[tail] = tokens_of_rank[sums_of_gaps(streams["tail_rank"], tail_counts)]
        probs[head] = head_units.astype(np.float32) / self.units
        probs[tail] = np.repeat((tail_units / np.maximum(tail_counts * self.units, 1)).astype(np.float32), tail_counts)
        return Ragged(ids, probs, counts)

    def _head_(self, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(row, token, probability) of each head token, row by row; takes them out of `blocks`."""
        rows, numbers = (blocks.amax(-1) >= self.tau).nonzero(as_tuple=True)
        found, places = (blocks[rows, numbers] >= self.tau).nonzero(as_tuple=True)
        rows, numbers = rows[found], numbers[found]
        values = blocks[rows, numbers, places].double()
        blocks[rows, numbers, places] = 0.0
        return rows, numbers * _BLOCK + places, values

    def _units(self, rows: Tensor, values: Tensor, tail: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """(units of each head token, units left for the tail of each row): points of one shifted grid in each interval."""
        counts = torch.bincount(rows, minlength=len(tail))
        total = torch.zeros_like(tail).index_add_(0, rows, values) + tail
        sums = torch.cat([values.new_zeros(1), (values / total[rows]).cumsum(0)])
        ends = counts.cumsum(0)
        before = sums[ends - counts][rows]
        up_to = sums[1:] - before
        # Where there is no tail the head is all there is, whatever rounding says.
        is_last = torch.zeros_like(rows, dtype=torch.bool)
        is_last[(ends - 1)[counts > 0]] = True
        up_to = torch.where(is_last & (tail[rows] == 0), 1.0, up_to)
        units = self._points(up_to, shift[rows]) - self._points(sums[:-1] - before, shift[rows])
        return units, self.units - torch.zeros_like(ends).index_add_(0, rows, units)

    def _points(self, up_to: Tensor, shift: Tensor) -> Tensor:
        return (up_to * self.units + shift).floor().long()

    def _tail(self, blocks: Tensor, sums: Tensor, units: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """(row, token) of each sampled one; `sums` runs over the blocks of a row. In two steps, because a running sum over a whole
        vocabulary loses what is small."""
        counts = (units + FINENESS - 1) // FINENESS
        rows = torch.repeat_interleave(counts)
        number = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        up_to = sums[rows]
        target = (number + shift[rows]) / counts[rows] * up_to[:, -1]
        block = torch.searchsorted(up_to, target.unsqueeze(-1), right=True).clamp_max(sums.shape[1] - 1)
        before = torch.where(block > 0, up_to.gather(-1, (block - 1).clamp_min(0)), 0.0)
        inside = blocks[rows, block.squeeze(-1)].double().cumsum(-1)
        place = torch.searchsorted(inside, target.unsqueeze(-1) - before, right=True)
        # Rounding may ask for more than the block has: its last token with a probability, then.
        last = torch.searchsorted(inside, inside[:, -1:].contiguous())
        return rows, (block * _BLOCK + torch.minimum(place, last)).squeeze(-1)


def _sorted_within(rows: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """(ranks ascending within their row, the order that does it)."""
    order = torch.argsort(rows * (int(ranks.max()) + 1 if len(ranks) else 1) + ranks)
    return ranks[order], order
