"""What is added to the loss of the labels: hidden states, embeddings, attention, and how their sizes are balanced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from potstill.errors import LossError
from potstill.losses.attention import AttentionMapLoss, AttentionRelationLoss
from potstill.losses.hidden import HiddenLoss
from potstill.types import AttentionKey, DenseTargets, HiddenStates, SoftTargets

FeatureTerm = HiddenLoss | AttentionMapLoss | AttentionRelationLoss


@dataclass(frozen=True)
class FeatureLoss:
    """Σ weight · term, beside the loss of the labels. Each term is a mean over the positions of a step that are not padding.

    terms         of different names: at most one of hidden states, one of embeddings, one of attention
    balance       fixed: weights as given. dynamic: each term is also multiplied by (loss of the labels / the term), without gradient, so
                  that it counts as much as its weight says (Minitron's α, Muralidharan et al. 2024, section 3). The ratio is that of
                  the step before, whole, so that it doesn't depend on how a step is split; the first step's is looked up beforehand
    shares_every  steps between two looks at each term's share of the gradient; None: never
    """

    terms: tuple[FeatureTerm, ...]
    balance: Literal["fixed", "dynamic"] = "fixed"
    shares_every: int | None = 50

    def __post_init__(self) -> None:
        if not self.terms or len(set(self.names)) != len(self.terms):
            raise LossError(f"terms are one or more of different names, found {list(self.names)}")
        if self.shares_every is not None and self.shares_every < 1:
            raise LossError(f"shares_every is a number of steps from 1 on, found {self.shares_every}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the terms, as they stand among the parts of a step."""
        return tuple(term.name for term in self.terms)

    @property
    def student_layers(self) -> tuple[int, ...]:
        """Whose states of the student are looked at."""
        return _sorted(term.student_layers for term in self.terms if isinstance(term, HiddenLoss))

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Whose states of the teacher are looked at."""
        return _sorted(term.teacher_layers for term in self.terms if isinstance(term, HiddenLoss))

    @property
    def student_attention(self) -> tuple[AttentionKey, ...]:
        """What is looked at of the student's attention."""
        return _sorted(term.student_attention for term in self.terms if not isinstance(term, HiddenLoss))

    @property
    def teacher_attention(self) -> tuple[AttentionKey, ...]:
        """What is looked at of the teacher's attention."""
        return _sorted(term.teacher_attention for term in self.terms if not isinstance(term, HiddenLoss))

    def matrices(self) -> dict[str, list[Float[Tensor, "_ _"]]]:
        """The first weights of each term's projection, of the terms that have one."""
        return {
            term.name: term.projection.matrices(len(term.pairs))
            for term in self.terms
            if isinstance(term, HiddenLoss) and term.projection is not None
        }

    def sums(
        self,
        student: HiddenStates,
        teacher: SoftTargets | None,
        contexts: Int[Tensor, " contexts"],
        matrices: Mapping[str, list[Tensor]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Each term's sum over positions, without its weight. LossError where the teacher's labels come without what is compared."""
        layers, attention = (teacher.layers, teacher.attention) if isinstance(teacher, DenseTargets) else ({}, {})
        found = {}
        for term in self.terms:
            if isinstance(term, HiddenLoss):
                found[term.name] = term(student.layers, layers, contexts, matrices.get(term.name, ())).sum()
            else:
                found[term.name] = term(student.attention, attention, contexts)
        return found


def _sorted(found: Iterable[tuple]) -> tuple:
    return tuple(sorted({one for some in found for one in some}))
