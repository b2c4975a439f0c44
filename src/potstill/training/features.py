"""What is learned beside the student where features are compared, and the measuring of who pulls how hard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.losses import FeatureLoss
from potstill.losses.support import over_students_tokens
from potstill.models import layers_of
from potstill.types import HiddenStates, Labels

# Sums over positions, or means over a step, of each term.
Terms = dict[str, Tensor]
# Terms below this share of the loss of the labels are in agreement already: dynamic balance leaves them.
_LEAST = 1e-3


class Features(nn.Module):
    """The projections of a `FeatureLoss`, as they are now, and the factors that balance its terms. Never part of the student."""

    measure: FeatureLoss
    factors: Tensor

    def __init__(self, measure: FeatureLoss) -> None:
        super().__init__()
        self.measure = measure
        self.matrices = nn.ModuleDict({name: nn.ParameterList(found) for name, found in measure.matrices().items()})
        # Not known yet: looked up before the first step, kept in checkpoints.
        if measure.balance == "dynamic":
            self.register_buffer("factors", torch.full((len(measure.terms),), torch.nan, dtype=torch.float64))

    @property
    def has_state(self) -> bool:
        """Whether there is anything a resumed run must find again."""
        return bool(self.state_dict())

    @property
    def needs_first_look(self) -> bool:
        """Whether the loss has to be looked at before the first step."""
        return self.measure.balance == "dynamic" and bool(self.factors.isnan().any())

    def sums(self, student: HiddenStates, teacher: Labels | None, contexts: Int[Tensor, " contexts"]) -> Terms:
        """Each term's sum over positions, without its weight."""
        # Products of hidden states in half precision would say more about rounding than about the models.
        with torch.autocast(student.rows.device.type, enabled=False):
            matrices: dict[str, list[Tensor]] = {name: [*found.parameters()] for name, found in self.matrices.items()}
            return self.measure.sums(
                student, over_students_tokens(teacher) if teacher is not None else None, contexts, matrices
            )

    def weights(self) -> dict[str, float]:
        """What each term is multiplied by now."""
        factors = self.factors.tolist() if self.measure.balance == "dynamic" else [1.0] * len(self.measure.terms)
        return {term.name: term.weight * factor for term, factor in zip(self.measure.terms, factors, strict=True)}

    def balance_(self, labels: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Set the factors by the means of a step: each term as large as the loss of the labels (Muralidharan et al. 2024, section 3)."""
        if self.measure.balance == "dynamic":
            found = [terms[name].double() for name in self.measure.names]
            wanted = labels.double().clamp_min(0)
            # A student cut from its teacher begins with some of its states: what is next to nothing is left, or rounding would lead.
            ratios = [wanted / one if one > _LEAST * wanted else torch.zeros_like(one) for one in found]
            self.factors.copy_(torch.stack(ratios))

    def is_share_due(self, step: int) -> bool:
        """Whether the shares of the gradient are measured in this step (from 1); in the first step always, unless never."""
        every = self.measure.shares_every
        return every is not None and (step - 1) % every == 0


@contextmanager
def first_input(student: PreTrainedModel, *, wanted: bool) -> Iterator[list[Tensor]]:
    """What goes into the student's first layer, where all terms of the loss meet; as part of the graph. Nothing if not wanted."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, given: tuple, named: dict) -> None:
        states = given[0] if given else named["hidden_states"]
        # Frozen embeddings, as under adapters, give states without a gradient. The last call counts: a model may be asked something first.
        kept[:] = [states if states.requires_grad else states.requires_grad_()]

    handle = layers_of(student)[0].register_forward_pre_hook(keep, with_kwargs=True) if wanted else None
    try:
        yield kept
    finally:
        if handle is not None:
            handle.remove()


class GradientShares:
    """Whose gradient is how long at what goes into the first layer, over a whole step however it is split.

    The labels' is what the whole has beyond the features': the loss over the labels hands its gradient on once.
    """

    def __init__(self) -> None:
        self._squares: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor], anchor: Tensor) -> None:
        """Before the backward pass of a part of the step: `terms` as they are in the loss, with their weights and the step's division."""
        rest: Tensor | None = None
        for name, term in terms.items():
            (found,) = torch.autograd.grad(term, anchor, retain_graph=True, allow_unused=True)
            found = torch.zeros_like(anchor) if found is None else found
            self._count(name, found)
            rest = found if rest is None else rest + found

        def labels(whole: Tensor) -> None:
            self._count("labels", whole if rest is None else whole - rest)

        anchor.register_hook(labels)

    def _count(self, name: str, gradient: Tensor) -> None:
        square = gradient.double().square().sum()
        self._squares[name] = self._squares[name] + square if name in self._squares else square

    def squares(self) -> dict[str, Tensor]:
        """Of the lengths, so far, in this process."""
        return dict(self._squares)


def shares_of(squares: Mapping[str, Tensor]) -> dict[str, float]:
    """Each gradient's length as a share of the sum of their lengths; the labels first."""
    lengths = {
        name: squares[name].sqrt().item()
        for name in ("labels", *sorted(squares.keys() - {"labels"}))
        if name in squares
    }
    whole = sum(lengths.values())
    return {name: length / whole if whole else 0.0 for name, length in lengths.items()}
