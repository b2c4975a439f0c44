"""Any torch classifier as student and teacher: Hinton's original case, images and all."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from potstill.errors import DataError
from potstill.losses import SoftLabelLoss
from potstill.training.annealing import Annealing, measures_of
from potstill.training.loop import Step, TrainingSettings, adamw
from potstill.training.watching import Watch
from potstill.types import DenseTargets, Head


def train_classifier(
    student: nn.Module,
    teacher: nn.Module | Tensor | None,
    inputs: Tensor,
    labels: Tensor | None,
    measure: SoftLabelLoss,
    settings: TrainingSettings,
    *,
    rows: int = 64,
    annealing: Annealing | None = None,
) -> Iterator[Step]:
    """Train a student [rows, ...] -> logits [rows, classes] in place, yielding after each optimizer step.

    teacher  a classifier that sees the same inputs (frozen, in evaluation mode), or its logits [inputs, classes], or None where
             `measure` asks for none
    inputs   [inputs, ...], read in an order of the seed's, `rows` a step, epoch after epoch; on the student's device
    labels   the classes [inputs]; None where there are none to be had, which needs alpha = 1
    annealing  how the measure's alpha changes from step to step; None: it doesn't

    Losses are means over the rows of a step, as in `train`; `micro_rows`, `dtype` and checkpoints are those of language models and have
    no say here. Raises DataError where numbers of inputs, labels and logits differ, NotFiniteError as `train` does.
    """
    measures = measures_of(measure, annealing, settings.steps)
    for end in measures.ends:
        _check(inputs, labels, teacher, end)
    torch.manual_seed(settings.seed)
    if isinstance(teacher, nn.Module):
        teacher.requires_grad_(False).eval()
    student.train()
    optimizer = adamw(student, settings)
    draw = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.int64)
    watch = Watch(settings.skip_spikes)
    for index in range(settings.steps):
        started = time.perf_counter()
        while len(order) < rows:
            order = torch.cat([order, torch.randperm(len(inputs), generator=draw)])
        chosen, order = order[:rows].to(inputs.device), order[rows:]
        rate = settings.learning_rate * settings.schedule.factor(index, settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        measure = measures.of_step(index)
        logits = student(inputs[chosen]).float()
        targets = _targets(teacher, inputs, chosen) if measure.needs_teacher else None
        known = logits.new_zeros(len(chosen), dtype=torch.int64) if labels is None else labels[chosen]
        terms = measure.terms(logits, targets, known)
        loss = torch.stack([share * values.mean() for share, values in terms.values()]).sum()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(student.parameters(), settings.max_gradient_norm))
        objection = watch.judge(index + 1, loss.item(), norm, rate)
        if objection is None:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        parts = {name: values.mean().item() for name, (_, values) in terms.items()}
        if labels is None:
            parts.pop("hard")
        count, seconds = len(chosen), time.perf_counter() - started
        told = {"alpha": measure.alpha, "skipped": objection}
        yield Step(index + 1, loss.item(), parts, float(count), rate, norm, count, seconds, **told)


def _check(inputs: Tensor, labels: Tensor | None, teacher: nn.Module | Tensor | None, measure: SoftLabelLoss) -> None:
    if labels is None and measure.alpha < 1:
        raise DataError(f"there are no labels, and alpha is {measure.alpha:g}: without labels it must be 1")
    if measure.needs_teacher and teacher is None:
        raise DataError(f"there is no teacher, and alpha is {measure.alpha:g}: without a teacher it must be 0")
    if not len(inputs):
        raise DataError("there are no inputs to learn from")
    for name, found in (("labels", labels), ("rows of the teacher's logits", teacher)):
        if isinstance(found, Tensor) and len(found) != len(inputs):
            raise DataError(f"there are {len(inputs):,} inputs and {len(found):,} {name}: give one for each")


def _targets(teacher: nn.Module | Tensor | None, inputs: Tensor, chosen: Tensor) -> DenseTargets:
    """The teacher's distribution over classes: logits are hidden states whose head changes nothing."""
    with torch.no_grad():
        logits = teacher[chosen] if isinstance(teacher, Tensor) else teacher(inputs[chosen])  # type: ignore[misc]
    return DenseTargets(logits.float(), Head(torch.eye(logits.shape[-1], device=logits.device)))
