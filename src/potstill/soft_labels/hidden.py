"""The tiers `hidden` and `dense`: everything the teacher believes, as its last hidden states or as its logits.

A hidden state has a few very large entries, which would make its quantisation coarse. So it is rotated first: signs, a shuffle and a
Hadamard transform, twice (as QuaRot and QuIP# do for weights), which spreads them; then rounded with one scale a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.soft_labels.noise import uniforms
from potstill.soft_labels.observed import Observed
from potstill.soft_labels.streams import Encoded

_ROUNDS = 2


@dataclass(frozen=True)
class Hidden:
    """`bits` of each number, 8 or 6, before entropy coding."""

    bits: int = 8

    def encode(self, seen: Observed) -> Encoded:
        """Of each prediction its hidden state."""
        rotated = _rotated(seen.rows.float().cpu())
        scales = rotated.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny) / self._largest
        levels = (rotated / scales.unsqueeze(-1)).round().clamp(-self._largest, self._largest) + self._largest
        num, width = rotated.shape
        return Encoded(
            {"level": levels.to(torch.uint8).flatten().numpy(), "scale": scales.numpy()},
            {"level": np.full(num, width, dtype=np.int64), "scale": np.ones(num, dtype=np.int64)},
        )

    def decode(self, streams: Mapping[str, NDArray]) -> NDArray[np.float32]:
        """Hidden states [predictions, width]."""
        scales = torch.from_numpy(streams["scale"])
        levels = torch.from_numpy(streams["level"]).view(len(scales), -1).float()
        return _rotated_back((levels - self._largest) * scales.unsqueeze(-1)).numpy()

    @property
    def _largest(self) -> int:
        return 2 ** (self.bits - 1) - 1


@dataclass(frozen=True)
class Dense:
    """Logits in fp32: for tests, and for vocabularies of a few hundred tokens."""

    def encode(self, seen: Observed) -> Encoded:
        """Of each prediction all logits."""
        num, tokens = seen.logits.shape
        return Encoded(
            {"logit": seen.logits.float().flatten().cpu().numpy()}, {"logit": np.full(num, tokens, dtype=np.int64)}
        )

    def decode(self, streams: Mapping[str, NDArray], tokens: int) -> NDArray[np.float32]:
        """Logits [predictions, tokens]."""
        return streams["logit"].reshape(-1, tokens)


def _rotated(rows: Tensor) -> Tensor:
    for number in range(_ROUNDS):
        signs, order = _signs_and_order(rows.shape[1], number)
        rows = _hadamard((rows * signs)[:, order])
    return rows


def _rotated_back(rows: Tensor) -> Tensor:
    for number in reversed(range(_ROUNDS)):
        signs, order = _signs_and_order(rows.shape[1], number)
        rows = _hadamard(rows)[:, order.argsort()] * signs
    return rows


@cache
def _signs_and_order(width: int, number: int) -> tuple[Tensor, Tensor]:
    places = np.arange(width)
    noise = uniforms(number, np.zeros(width, dtype=np.uint64), places, 2)
    return torch.from_numpy(np.where(noise[:, 0] < 0.5, -1.0, 1.0)).float(), torch.from_numpy(np.argsort(noise[:, 1]))


def _hadamard(rows: Tensor) -> Tensor:
    """Its own inverse; within blocks of the largest power of two that divides the width."""
    num, width = rows.shape
    size = width & -width
    span = 1
    while span < size:
        pairs = rows.view(num, -1, 2, span)
        rows = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).view(num, width)
        span *= 2
    return rows / size**0.5
