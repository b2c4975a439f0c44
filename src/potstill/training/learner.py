"""Who learns, and what is called for it: the student with its loss, in each process whole or divided among them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.losses import FeatureLoss, Measure, Workspace, linear_loss
from potstill.models import hidden_states, layers_of
from potstill.training.features import Features, Terms, first_input
from potstill.training.sharding import Sharding, gather_, shard_
from potstill.types import Batch, Labels


@dataclass(frozen=True)
class Learner:
    """What has weights that learn: the student, and projections of features where there are any.

    plain      as it was given
    working    what the optimizer moves: the same, or a copy that is divided among processes
    features   of the working one
    objective  the working one with its loss, in what the processes need around it
    """

    plain: nn.Module
    working: nn.Module
    features: Features | None
    objective: nn.Module

    def gather_(self, *, wanted: bool = True) -> None:
        """Give the plain one the weights of the working one, if they are two and it is wanted; all processes call it."""
        if wanted and self.working is not self.plain:
            gather_(self.plain, self.working)


def learner_of(
    student: PreTrainedModel,
    features: FeatureLoss | None,
    processes: Accelerator,
    *,
    sharding: Sharding | None,
    size: int | None,
    compiled: bool,
) -> Learner:
    """The student on this process's device, or a divided copy of it; `size` tokens get a probability."""
    beside = None if features is None else Features(features)
    plain = _learning(student, beside)
    if sharding is None:
        plain.to(processes.device)
        objective = processes.prepare_model(Objective(student, beside, size, compiled=compiled))
        return Learner(plain, plain, beside, objective)
    plain.to("cpu")
    student, beside = deepcopy((student, beside))
    objective = Objective(student, beside, size, compiled=compiled)
    shard_(objective, layers_of(student), sharding)
    return Learner(plain, _learning(student, beside), beside, objective)


def _learning(student: PreTrainedModel, features: Features | None) -> nn.Module:
    if features is None or not features.has_state:
        return student
    return nn.ModuleDict({"student": student, "features": features})


class Objective(nn.Module):
    """The student with its loss, so that distributed wrappers see one forward pass that ends in the loss."""

    def __init__(
        self,
        student: PreTrainedModel,
        features: Features | None,
        size: int | None,
        *,
        compiled: bool,
    ) -> None:
        super().__init__()
        self.student, self.features, self.size, self.compiled = student, features, size, compiled
        self.workspace = Workspace()

    def forward(
        self, batch: Batch, targets: Labels | None, measure: Measure, with_first_input: bool
    ) -> tuple[Tensor, Terms, dict[str, Tensor], list[Tensor]]:
        """(sum over predictions, each feature's sum over positions, parts of the first, what goes into the first layer if asked for)."""
        added = None if self.features is None else self.features.measure
        layers, attention = ((), ()) if added is None else (added.student_layers, added.student_attention)
        with first_input(self.student, wanted=with_first_input) as anchor:
            states = hidden_states(self.student, batch, size=self.size, layers=layers, attention=attention)
        counted = batch.counted
        tokens, weights = batch.targets[counted], batch.weights[counted]
        labels = targets if measure.needs_teacher else None
        loss = linear_loss(states, labels, tokens, weights, measure, workspace=self.workspace, compiled=self.compiled)
        terms = {} if self.features is None else self.features.sums(states, targets, batch.contexts)
        return loss.total, terms, dict(loss.parts), anchor
