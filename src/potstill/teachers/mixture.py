"""Several teachers who mark together, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LossError, VocabularyError
from potstill.losses.support import over_students_tokens
from potstill.teachers.stored import on_device
from potstill.types import Batch, DenseTargets, Labels, MixedTargets, SparseTargets, Teacher

Weighing = Literal["weights", "confidence", "cross_entropy"]
# Rows whose logits are made at once, to see how sure a teacher is.
_CHUNK = 256


@dataclass(frozen=True)
class MixtureTeacher:
    """One opinion out of several.

    teachers  whoever marks, all over the same tokens
    weights   of each; only their proportions matter
    of        what is averaged: probabilities (arithmetic mean) or logits (geometric mean)
    by        what else weighs, at each prediction: nothing; confidence: e^-H, H a teacher's entropy in nats; cross_entropy: how well it
              knew the text, (1 - softmax over teachers of CE) / (teachers - 1) (CA-MKD, Zhang et al. 2022, arXiv:2201.00007)
    """

    teachers: tuple[Teacher, ...]
    weights: tuple[float, ...]
    of: Literal["probabilities", "logits"] = "probabilities"
    by: Weighing = "weights"

    def __post_init__(self) -> None:
        if len(self.teachers) != len(self.weights) or not self.teachers:
            raise LossError(
                f"there are {len(self.teachers)} teachers and {len(self.weights)} weights: give one for each"
            )
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise LossError(f"the weights of teachers are above 0, found {', '.join(map(str, self.weights))}")
        if self.by == "cross_entropy" and len(self.teachers) < 2:
            raise LossError("weighing teachers by their cross-entropy takes two of them at least")
        check_one_size(self.teachers)

    @property
    def num_tokens(self) -> int:
        """How many tokens get a probability."""
        return self.teachers[0].num_tokens

    def label(self, batch: Batch) -> MixedTargets:
        """What each believes, and how much it counts at each prediction; on the batch's device. LossError where teachers are weighed by
        what some of them, stored as a few tokens, can't tell."""
        device = batch.inputs.device
        parts = tuple(parts_of(on_device(teacher.label(batch), device)) for teacher in self.teachers)
        weights = torch.tensor(self.weights, device=device).log().repeat(int(batch.counted.sum()), 1)
        if self.by != "weights":
            weights = weights + _weighed(parts, batch.targets[batch.counted], self.by)
        return MixedTargets(parts, weights.softmax(-1), self.of)


def parts_of(labels: Labels) -> DenseTargets | SparseTargets:
    """The targets of one teacher; LossError where that one is a mixture itself, or of another tokenizer."""
    targets = over_students_tokens(labels)
    if isinstance(targets, MixedTargets):
        raise LossError("a mixture of teachers can't have a mixture among them: name all teachers in one")
    return targets


def check_one_size(teachers: Sequence[Teacher]) -> None:
    """VocabularyError where teachers don't mark the same tokens."""
    sizes = [teacher.num_tokens for teacher in teachers]
    if len(set(sizes)) > 1:
        raise VocabularyError(
            f"the teachers give {', '.join(f'{size:,}' for size in sizes)} tokens a probability: give all of them the size that they share"
        )


def _weighed(
    parts: Sequence[DenseTargets | SparseTargets], tokens: Tensor, by: Weighing
) -> Float[Tensor, "predictions teachers"]:
    """The logarithm of what a teacher's own confidence or cross-entropy weighs."""
    seen = [_entropy_and_surprise(part, tokens) for part in parts]
    if by == "confidence":
        return -torch.stack([entropy for entropy, _ in seen], 1)
    surprise = torch.stack([nll for _, nll in seen], 1)
    # log(1 - softmax): the sum of the others' shares, which keeps its digits where one teacher is very bad.
    shares = surprise.log_softmax(1)
    others = [torch.cat([shares[:, :k], shares[:, k + 1 :]], 1).logsumexp(1) for k in range(len(parts))]
    return torch.stack(others, 1)


def _entropy_and_surprise(part: DenseTargets | SparseTargets, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(entropy, -log p of the true token) a row, in nats."""
    if not isinstance(part, DenseTargets):
        raise LossError(
            'teachers can be weighed by confidence or cross-entropy where they give whole distributions: live, or labels of tier "hidden"'
        )
    entropies, surprises = [], []
    for rows, true in zip(part.rows.split(_CHUNK), tokens.split(_CHUNK), strict=True):
        log_p = part.head.logits(rows).log_softmax(-1)
        entropies.append(-(log_p.exp() * log_p).sum(-1))
        surprises.append(-log_p.gather(1, true.unsqueeze(1)).squeeze(1))
    nothing = tokens.new_zeros(0, dtype=torch.float32)
    return torch.cat([nothing, *entropies]), torch.cat([nothing, *surprises])
