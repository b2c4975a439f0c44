"""How far is what the student's layers put out from what the teacher's do?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from potstill.errors import LossError

Distance = Literal["cosine", "mse"]


@dataclass(frozen=True)
class HiddenLoss:
    """γ · the mean over pairs of layers of a distance between their hidden states, a position. Added to the loss of the labels.

    pairs     (student layer, teacher layer), from 0; a layer's hidden state is what it puts out, the last one's behind the final norm
    weight    γ
    distance  cosine: 1 - cos (DistilBERT, Sanh et al. 2019; Minitron). mse: the mean square of the difference (TinyBERT)

    Every position that is not padding counts once, whether its prediction counts or not: the loss is a mean over the positions of a
    step. Both need the same width.
    """

    pairs: tuple[tuple[int, int], ...]
    weight: float = 1.0
    distance: Distance = "cosine"

    def __post_init__(self) -> None:
        if not self.pairs or not all(min(pair) >= 0 for pair in self.pairs):
            raise LossError(f"pairs are of layers of student and teacher, counted from 0, found {list(self.pairs)}")
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise LossError(f"weight must be a finite number above 0, found {self.weight}")

    @property
    def student_layers(self) -> tuple[int, ...]:
        """Whose states of the student are looked at."""
        return tuple(sorted({one for one, _ in self.pairs}))

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Whose states of the teacher are looked at."""
        return tuple(sorted({other for _, other in self.pairs}))

    def __call__(
        self, student: Mapping[int, Float[Tensor, "positions _"]], teacher: Mapping[int, Float[Tensor, "positions _"]]
    ) -> Float[Tensor, " positions"]:
        """The distance at each position, without γ; at least fp32. LossError where a layer is missing or the widths differ."""
        distances = []
        for one, other in self.pairs:
            if one not in student or other not in teacher:
                raise LossError(
                    f"the hidden states of layers {one} (student) and {other} (teacher) are needed, and there are {sorted(student)} and "
                    f"{sorted(teacher)}: stored labels have none, use a live teacher"
                )
            ours, theirs = (_wide(states[layer]) for states, layer in ((student, one), (teacher, other)))
            if ours.shape != theirs.shape:
                raise LossError(
                    f"hidden states of width {ours.shape[-1]} (student) and {theirs.shape[-1]} (teacher) can't be compared: "
                    "leave loss.hidden out, or keep the teacher's width"
                )
            match self.distance:
                case "cosine":
                    distances.append(1 - functional.cosine_similarity(ours, theirs, dim=-1))
                case "mse":
                    distances.append((ours - theirs).square().mean(-1))
        return torch.stack(distances).mean(0)


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()
