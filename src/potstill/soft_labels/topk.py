"""The tier `topk`: the likeliest tokens with their probabilities, and exactly how much is left for all others.

The remainder is kept for each temperature that was declared when the store was made: the listed tokens' logits alone do not tell it.
Nothing is renormalised: the rest is an event of its own (`SparseTargets.rest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.soft_labels.observed import Observed
from potstill.soft_labels.streams import Encoded, Ragged, gaps_of, sums_of_gaps

# The level of what fills a list that is shorter than k: its probability is 0 in floats.
_IMPOSSIBLE = 65535


@dataclass(frozen=True)
class TopK:
    """`k` tokens; logits in steps of `step` nats below the largest; the rest's mass at each of `temperatures`."""

    k: int = 64
    step: float = 1 / 32
    temperatures: tuple[float, ...] = (1.0,)

    def encode(self, seen: Observed, ranks: Tensor) -> Encoded:
        """Of each prediction the same number of tokens."""
        values, ids = seen.logits.topk(min(self.k, seen.logits.shape[1]), -1)
        rests = []
        for temperature in self.temperatures:
            probs = seen.probs_at(temperature) if temperature != 1.0 else seen.probs
            rests.append(1.0 - probs.gather(-1, ids).double().sum(-1))
        return self.encode_listed(values, ids, rests, ranks)

    def encode_listed(self, values: Tensor, ids: Tensor, rests: Sequence[Tensor], ranks: Tensor) -> Encoded:
        """values, ids [predictions, k]: logits, up to a constant of each prediction, of different tokens; rests: at each temperature."""
        order = ranks[ids].argsort(-1)
        steps = (values.amax(-1, keepdim=True) - values.gather(-1, order)) / self.step
        levels = steps.round().clamp_max(_IMPOSSIBLE)
        num, k = values.shape
        counts = np.full(num, k, dtype=np.int64)
        arrays = {
            "rank": gaps_of(ranks[ids].gather(-1, order).flatten().cpu().numpy(), counts),
            "level": levels.flatten().to(torch.int32).cpu().numpy().astype(np.uint16),
        }
        all_counts = {"rank": counts, "level": counts}
        for number, rest in enumerate(rests):
            arrays[f"rest_{number}"] = rest.clamp(0.0, 1.0).cpu().numpy().astype(np.float32)
            all_counts[f"rest_{number}"] = np.ones(num, dtype=np.int64)
        return Encoded(arrays, all_counts)

    def decode(self, streams: Mapping[str, NDArray], tokens_of_rank: NDArray[np.int64], temperature: float) -> Ragged:
        """The listed tokens of each prediction, and its rest, at one of the temperatures."""
        rest = streams[f"rest_{self.temperatures.index(temperature)}"]
        k = len(streams["rank"]) // max(1, len(rest))
        counts = np.full(len(rest), k, dtype=np.int64)
        ranks = sums_of_gaps(streams["rank"], counts)
        weights = np.exp(streams["level"].reshape(-1, k) * np.float32(-self.step / temperature))
        probs = weights * ((1.0 - rest) / weights.sum(-1))[:, None]
        return Ragged(tokens_of_rank[ranks], probs.ravel().astype(np.float32), counts, rest)
