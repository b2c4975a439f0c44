"""Bytes of a label on disk, by what is kept of it, before there is one."""

from __future__ import annotations

import math

from potstill.soft_labels.hidden import Dense, Hidden
from potstill.soft_labels.manifest import Codec
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.topk import TopK

# Bytes a prediction, measured on SmolLM2's 49,152 tokens (benchmarks/store.md): by tau; a listed token; a number of so many bits.
_SAMPLED = ((0.02, 24.2), (0.05, 13.1), (0.1, 8.3), (0.2, 5.3))
_LEAST_TAU = 1e-4
_LISTED = 145.5 / 64
_PACKED = {6: 384.7 / 576, 8: 531.5 / 576}
# So many times as much takes sampled text that is unlike what the teacher writes itself, of which it is less sure.
UNLIKE = 4.6


def size_of_label(codec: Codec, *, width: int, vocabulary: int) -> float:
    """Of one prediction, compressed, as measured on one teacher; surer ones take less, larger vocabularies a little more."""
    match codec:
        case Sampled(tau=tau):
            return _between(tau)
        case TopK(k=k):
            return _LISTED * min(k, vocabulary)
        case Hidden(bits=bits):
            few, many = _PACKED[6] * min(bits, 6) / 6, max(0, bits - 6) * (_PACKED[8] - _PACKED[6]) / 2
            return width * (few + many)
        case Dense():
            return 4.0 * vocabulary


def _between(tau: float) -> float:
    """A straight line between what was measured, in logarithms; beyond the ends the last two go on, to a tau of 0.0001."""
    points = [(math.log(at), math.log(size)) for at, size in _SAMPLED]
    x = math.log(max(tau, _LEAST_TAU))
    right = next((place for place in range(1, len(points)) if x <= points[place][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return math.exp(y0 + (x - x0) / (x1 - x0) * (y1 - y0))
