"""Bytes of a label on disk, by what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from potstill.planning.shapes import ModelShape
from potstill.soft_labels import Codec, Dense, Hidden, Sampled, TopK, size_of_label


@dataclass(frozen=True)
class LabelFormat:
    """What is kept of a prediction: the tier of a store, and its setting."""

    tier: Literal["sampled", "topk", "hidden", "dense"] = "sampled"
    tau: float = 0.05
    k: int = 64
    bits: int = 8


def bytes_a_label(labels: LabelFormat, teacher: ModelShape) -> float:
    """Of one prediction on disk, as measured on one teacher."""
    codecs: dict[str, Codec] = {
        "sampled": Sampled(labels.tau),
        "topk": TopK(labels.k),
        "hidden": Hidden(labels.bits),
        "dense": Dense(),
    }
    return size_of_label(codecs[labels.tier], width=teacher.width, vocabulary=teacher.vocabulary)
