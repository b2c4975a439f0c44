"""Bytes of a label on disk, by what is kept of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from potstill.planning.shapes import ModelShape

# Bytes a prediction, measured on SmolLM2's 49,152 tokens (benchmarks/store.md): by tau; a listed token; of a plain number of so many bits.
_SAMPLED = ((0.02, 24.2), (0.05, 13.1), (0.1, 8.3), (0.2, 5.3))
_LEAST_TAU = 1e-4
_LISTED = 145.5 / 64
_PACKED = {6: 384.7 / 576, 8: 531.5 / 576}


@dataclass(frozen=True)
class LabelFormat:
    """What is kept of a prediction: the tier of a store, and its setting."""

    tier: Literal["sampled", "topk", "hidden", "dense"] = "sampled"
    tau: float = 0.05
    k: int = 64
    bits: int = 8


def bytes_a_label(labels: LabelFormat, teacher: ModelShape) -> float:
    """Of one prediction on disk, compressed, as measured on one teacher; surer ones take less, larger vocabularies a little more."""
    match labels.tier:
        case "sampled":
            return _between(labels.tau)
        case "topk":
            return _LISTED * labels.k
        case "hidden":
            few, many = _PACKED[6] * min(labels.bits, 6) / 6, max(0, labels.bits - 6) * (_PACKED[8] - _PACKED[6]) / 2
            return teacher.width * (few + many)
        case "dense":
            return 4.0 * teacher.vocabulary


def _between(tau: float) -> float:
    """A straight line between what was measured, in logarithms; beyond the ends the last two go on, to a tau of 0.0001."""
    points = [(math.log(at), math.log(size)) for at, size in _SAMPLED]
    x = math.log(max(tau, _LEAST_TAU))
    right = next((place for place in range(1, len(points)) if x <= points[place][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return math.exp(y0 + (x - x0) / (x1 - x0) * (y1 - y0))
