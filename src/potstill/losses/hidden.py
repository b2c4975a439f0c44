"""How far is what the student's layers put out from what the teacher's do?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from potstill.errors import LossError
from potstill.losses.projection import Projection
from potstill.types import EMBEDDINGS

Distance = Literal["cosine", "mse", "cka"]
# Debiased similarity needs so many tokens of a context.
_LEAST_TOKENS = 4


@dataclass(frozen=True)
class HiddenLoss:
    """γ · the mean over pairs of layers of a distance between their hidden states, a position. Added to the loss of the labels.

    pairs         (student layer, teacher layer), from 0; a layer's hidden state is what it puts out, the last one's behind the final
                  norm; -1 is what goes into the first layer. ((-1, -1),) is the loss of the embeddings (TinyBERT)
    weight        γ
    distance      cosine: 1 - cos (DistilBERT, Sanh et al. 2019; Minitron). mse: the mean square of the difference (TinyBERT, Jiao et al.
                  2020, eq. 8). cka: 1 - the linear centred kernel alignment of each context (Kornblith et al. 2019), debiased
    projection    of the student's states, learned beside it; without one both need the same width, but for cka, which never does
    standardised  both states first get mean 0 and variance 1 at each position, so that a few huge channels count for less

    Every position that is not padding counts once, whether its prediction counts or not: the loss is a mean over the positions of a
    step. A context's cka counts once for each of its positions; a context of less than 4 tokens has none and counts 0.
    """

    pairs: tuple[tuple[int, int], ...]
    weight: float = 1.0
    distance: Distance = "cosine"
    projection: Projection | None = None
    standardised: bool = False

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.weight, least=EMBEDDINGS)
        if self.projection is not None and self.distance == "cka":
            raise LossError("cka compares states of any widths by itself: leave the projection out")

    @property
    def name(self) -> str:
        """Among the parts of a step."""
        return "embeddings" if self.pairs == ((EMBEDDINGS, EMBEDDINGS),) else "hidden"

    @property
    def student_layers(self) -> tuple[int, ...]:
        """Whose states of the student are looked at."""
        return tuple(sorted({one for one, _ in self.pairs}))

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Whose states of the teacher are looked at."""
        return tuple(sorted({other for _, other in self.pairs}))

    def __call__(
        self,
        student: Mapping[int, Float[Tensor, "positions _"]],
        teacher: Mapping[int, Float[Tensor, "positions _"]],
        contexts: Int[Tensor, " contexts"] | None = None,
        matrices: Sequence[Float[Tensor, "_ _"]] = (),
    ) -> Float[Tensor, " positions"]:
        """The distance at each position, without γ; at least fp32. LossError where a layer is missing or the widths differ.

        contexts  how many positions each context has (`Batch.contexts`); one of all positions if left out
        matrices  the projection's, as they are now
        """
        distances = []
        for place, (one, other) in enumerate(self.pairs):
            if one not in student or other not in teacher:
                raise LossError(
                    f"the hidden states of layers {one} (student) and {other} (teacher) are needed, and there are {sorted(student)} and "
                    f"{sorted(teacher)}: stored labels have none, use a live teacher"
                )
            ours, theirs = (wide(states[layer]) for states, layer in ((student, one), (teacher, other)))
            if self.projection is not None:
                ours = ours @ matrices[self.projection.place(place)].to(ours.dtype).T
            if ours.shape != theirs.shape and self.distance != "cka":
                raise LossError(
                    f"hidden states of width {ours.shape[-1]} (student) and {theirs.shape[-1]} (teacher) can't be compared: "
                    "give the loss a projection, use cka, or keep the teacher's width"
                )
            if self.standardised:
                ours, theirs = (functional.layer_norm(states, states.shape[-1:]) for states in (ours, theirs))
            match self.distance:
                case "cosine":
                    distances.append(1 - functional.cosine_similarity(ours, theirs, dim=-1))
                case "mse":
                    distances.append((ours - theirs).square().mean(-1))
                case "cka":
                    distances.append(_unlikeness(ours, theirs, contexts))
        return torch.stack(distances).mean(0)


def check_pairs(pairs: tuple[tuple[int, int], ...], weight: float, *, least: int = 0) -> None:
    """LossError for pairs that can't be of layers, or a weight that can't be one."""
    if not pairs or not all(min(pair) >= least for pair in pairs):
        raise LossError(f"pairs are of layers of student and teacher, counted from 0, found {list(pairs)}")
    if not (weight > 0 and math.isfinite(weight)):
        raise LossError(f"weight must be a finite number above 0, found {weight}")


def wide(states: Tensor) -> Tensor:
    """In fp32, or fp64 as they are."""
    return states if states.dtype == torch.float64 else states.float()


def _unlikeness(
    ours: Float[Tensor, "positions _"], theirs: Float[Tensor, "positions _"], contexts: Int[Tensor, " contexts"] | None
) -> Float[Tensor, " positions"]:
    """1 - the debiased linear CKA of the context at each of its positions."""
    sizes = [len(ours)] if contexts is None else contexts.tolist()
    found = [ours[:0, 0]]
    for one, other in zip(ours.split(sizes), theirs.split(sizes), strict=True):
        if len(one) < _LEAST_TOKENS:
            found.append(0.0 * one[:, 0])
            continue
        first, second = _centred_kernel(one), _centred_kernel(other)
        # Unbiased HSICs (Song et al. 2012, eq. 5) are inner products of such kernels (Székely and Rizzo 2014): CKA is a cosine.
        alike = functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
        found.append((1 - alike).expand(len(one)))
    return torch.cat(found)


def _centred_kernel(states: Float[Tensor, "n width"]) -> Float[Tensor, "n n"]:
    """X Xᵀ, U-centred: rows, columns and the whole sum to 0 without the diagonal, which is 0."""
    n = len(states)
    # A common offset changes nothing but the rounding, and a common factor neither.
    states = states - states.mean(0)
    states = states / states.detach().square().mean().sqrt().clamp_min(torch.finfo(states.dtype).tiny)
    off = 1 - torch.eye(n, dtype=states.dtype, device=states.device)
    kernel = states @ states.T / states.shape[-1] * off
    rows = kernel.sum(1)
    return (kernel - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))) * off
