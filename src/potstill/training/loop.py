"""The loop: label, forward, backward, step. Runs on Accelerate, so one process or many, any device.

Every process reads the whole batch of a step and keeps its own rows, so the weight of the step is known to all without a
word between them, and neither accumulation, packing nor the number of processes changes the gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import RecipeError
from potstill.losses import FeatureLoss, Measure
from potstill.models import join_processes
from potstill.teachers import AveragedTeacher, on_device
from potstill.training.annealing import Annealing, Marks, measures_of
from potstill.training.checkpoint import load_checkpoint_, load_written, newest_checkpoint, save_checkpoint
from potstill.training.features import GradientShares, shares_of
from potstill.training.learner import learner_of
from potstill.training.on_policy import OnPolicy, StudentText, Written, begin_writing
from potstill.training.passes import Work, ahead, check_begins_alike, divided
from potstill.training.schedule import Cosine, Schedule
from potstill.training.sharding import divided_teacher, keeping_gradients, sharding_of, whole
from potstill.training.watching import Watch
from potstill.types import Batch, Labels, Teacher


@runtime_checkable
class Batches(Protocol):
    """Text by step number: the batch of step k is a function of k alone, so a killed run resumes by its number."""

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches of step, step + 1, ... without end."""
        ...


@dataclass(frozen=True)
class TrainingSettings:
    """How the student learns.

    micro_rows   sequences a forward pass (None = a process's whole share of the batch)
    skip_spikes  a step whose gradient is so many times as long as usual is left out; None: for its length none is
    tensor_parallel  the processes run a live teacher together, each a part of its layers (`TensorParallelTeacher`): all of them, or, a
                 number, each so many of consecutive ranks

    Raises RecipeError for a number that nothing can be learned with.
    """

    steps: int
    learning_rate: float = 1e-3
    schedule: Schedule = field(default_factory=Cosine)
    micro_rows: int | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_gradient_norm: float = 1.0
    dtype: torch.dtype = torch.float32
    gradient_checkpointing: bool = False
    compile_loss: bool = False
    checkpoint_every: int | None = None
    seed: int = 0
    skip_spikes: float | None = 20.0
    tensor_parallel: bool | int = False

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "micro_rows": self.micro_rows, "checkpoint_every": self.checkpoint_every}
        for name, count in counts.items():
            _check(name, count, count is None or count >= 1, "at least 1")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0 and finite")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0 and finite")
        _check("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "at least 0 and below 1")
        _check("max_gradient_norm", self.max_gradient_norm, self.max_gradient_norm > 0, "above 0")
        _check("skip_spikes", self.skip_spikes, self.skip_spikes is None or self.skip_spikes > 0, "above 0, or None")


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. Loss and parts are means over the step's weight, in nats a token.

    index          steps done, this one included
    weight         the sum of the weights the means were taken over
    tokens         tokens read in this step, padding included, by all processes
    seconds        it took, checkpoint writing not counted
    gradient_norm  before clipping
    written        of a step that read what the student wrote: how much that was
    shares         of the gradient, by its length at what goes into the first layer: the labels' and each feature's; in the steps in
                   which it was measured
    alpha          the share of the soft labels in this step
    skipped        why the student did not learn from it; None where it did
    """

    index: int
    loss: float
    parts: dict[str, float]
    weight: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    written: Written | None = None
    shares: dict[str, float] = field(default_factory=dict)
    alpha: float | None = None
    skipped: str | None = None


def train(
    student: PreTrainedModel,
    teacher: Teacher | None,
    batches: Batches | OnPolicy,
    measure: Measure,
    settings: TrainingSettings,
    *,
    folder: Path | None = None,
    features: FeatureLoss | None = None,
    annealing: Annealing | None = None,
) -> Iterator[Step]:
    """Train the student in place, yielding after each optimizer step. `features` are added to the loss of the labels.

    Batches of a kind `OnPolicy` are the student's own text, written as it learns; a teacher that is the student's average follows it.
    `annealing` changes the measure's alpha from step to step; in a step where it is 0 no teacher is asked.
    With a folder, its newest checkpoint is taken up, one is written every `checkpoint_every` steps and at the end; killed and resumed on a
    CPU, a run gives the same bits. Under FSDP2 a divided copy learns, and the student has its weights at the end. A step whose loss or
    gradient is no number, or far too long, is left out (`Step.skipped`); NotFiniteError where the first is, or many in a row.
    """
    accelerator = join_processes()
    sharding = sharding_of(accelerator, settings.dtype)
    torch.manual_seed(settings.seed)
    student.train()
    measures = measures_of(measure, annealing, settings.steps, compiled=settings.compile_loss)
    if settings.gradient_checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False})
    size, compiled = None if teacher is None else teacher.num_tokens, settings.compile_loss
    learner = learner_of(student, features, accelerator, sharding=sharding, size=size, compiled=compiled)
    average = teacher.model.to(accelerator.device) if isinstance(teacher, AveragedTeacher) else None  # type: ignore[arg-type]
    optimizer = adamw(learner.working, settings)
    watch, newest = Watch(settings.skip_spikes), None if folder is None else newest_checkpoint(folder)
    done = 0 if newest is None else load_checkpoint_(newest, learner.working, optimizer, watch, average=average)
    check_begins_alike(accelerator, done, None if isinstance(batches, OnPolicy) else batches.from_step(done))
    learner.gather_()
    asked = teacher if measures.need_teacher or features is not None else None
    asked = divided_teacher(asked, accelerator, sharding, tensor_parallel=settings.tensor_parallel)
    own, text = None, batches
    if isinstance(text, OnPolicy):
        kept = None if newest is None else load_written(newest)
        own = text = begin_writing(text, student, asked, measures.least, sharding, dtype=settings.dtype, kept=kept)
    work = _work(text, asked, accelerator, settings, done, in_step=bool(sharding or settings.tensor_parallel))
    for index in range(done, settings.steps):
        started = time.perf_counter()
        batch, parts = next(work)
        rate = _set_rate_(optimizer, settings, index)
        marks = Marks(measures.of_step(index), asked, learner.features)
        means, found = _gradient_of_step(accelerator, learner.objective, marks, batch, parts, settings, index + 1)
        norm = _clip_(accelerator, learner.working, settings.max_gradient_norm)
        if (objection := watch.judge(index + 1, means["loss"].item(), norm, rate)) is None:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        learner.gather_(wanted=average is not None or index + 1 == settings.steps)
        if isinstance(teacher, AveragedTeacher) and objection is None:
            teacher.follow_(student, index + 1)
        written, text_left = (None, None) if own is None else (own.of_step(index), own.state())
        step = _step(index + 1, means, batch, marks, rate, norm, started)
        step = replace(step, written=written, shares=found, skipped=objection)
        if folder is not None and _is_due(step.index, settings):
            save_checkpoint(folder, step.index, learner.working, optimizer, watch, written=text_left, average=average)
        yield step


def _work(
    text: Batches | StudentText,
    teacher: Teacher | None,
    accelerator: Accelerator,
    settings: TrainingSettings,
    done: int,
    *,
    in_step: bool,
) -> Iterator[Work]:
    """This process's passes of step `done` and those to come."""
    rank, world = accelerator.process_index, accelerator.num_processes
    work = divided(text.from_step(done), teacher, settings.micro_rows, rank=rank, world=world, in_step=in_step)
    # What a student writes must be of the weights it has in that step: nothing of it is made ahead.
    return work if isinstance(text, StudentText) else ahead(work)


def _clip_(accelerator: Accelerator, learning: nn.Module, most: float) -> float:
    """The norm of the whole gradient, wherever its parts are, before it is made no longer than `most`."""
    norm = accelerator.clip_grad_norm_(learning.parameters(), most)
    return 0.0 if norm is None else whole(norm).item()


def _gradient_of_step(
    accelerator: Accelerator,
    objective: nn.Module,
    marks: Marks,
    batch: Batch,
    parts: list[tuple[Batch, Labels | None]],
    settings: TrainingSettings,
    index: int,
) -> tuple[dict[str, Float[Tensor, ""]], dict[str, float]]:
    """(means of the loss and its parts, shares of the gradient where these are due), the gradient being accumulated."""
    features = marks.features
    if features is not None and features.needs_first_look:
        with torch.no_grad():
            _pass(accelerator, objective, marks, batch, parts, settings, None)
    shares = GradientShares() if features is not None and features.is_share_due(index) else None
    means = _pass(accelerator, objective, marks, batch, parts, settings, shares)
    return means, {} if shares is None else shares_of(_over_processes(accelerator, shares.squares()))


def _pass(
    accelerator: Accelerator,
    objective: nn.Module,
    marks: Marks,
    batch: Batch,
    parts_of_step: list[tuple[Batch, Labels | None]],
    settings: TrainingSettings,
    shares: GradientShares | None,
) -> dict[str, Float[Tensor, ""]]:
    """Accumulate the gradient of the step's mean loss, unless there is none to be had; the means of the loss and its parts over all
    processes. Features are balanced anew by what is found."""
    world = accelerator.num_processes
    weight = batch.weight.clamp_min(torch.finfo(batch.weights.dtype).tiny).item()
    positions = max(1, int((batch.documents >= 0).sum()))
    means: dict[str, Tensor] = {}
    device, features, teacher = accelerator.device.type, marks.features, marks.asked
    factors = {} if features is None else features.weights()
    for number, (micro, targets) in enumerate(parts_of_step):
        micro = micro.to(accelerator.device)
        is_last = number == len(parts_of_step) - 1
        with torch.autocast(device, settings.dtype, enabled=settings.dtype != torch.float32):
            if targets is None and teacher is not None:
                targets = teacher.label(micro)
            with _sync(accelerator, objective, is_last):
                labels = None if targets is None else on_device(targets, accelerator.device)
                total, terms, parts, anchor = objective(micro, labels, marks.measure, shares is not None)
                found = {name: value / weight for name, value in {"loss": total, "labels": total, **parts}.items()}
                found |= {name: value / positions for name, value in terms.items()}
                weighted = {name: factors[name] * found[name] for name in terms}
                found["loss"] = sum(weighted.values(), found["labels"])
                if shares is not None:
                    shares.add({name: value * world for name, value in weighted.items()}, anchor[0])
                if torch.is_grad_enabled():
                    # Wrappers average the gradient over processes; the weight of the step is already everybody's.
                    accelerator.backward(found["loss"] * world)
        for name, value in found.items():
            means[name] = means.get(name, torch.zeros((), device=value.device)) + value.detach()
    means = _over_processes(accelerator, means)
    labels = means.pop("labels")
    if features is not None:
        features.balance_(labels, means)
    return means


def _over_processes(accelerator: Accelerator, sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sums over all processes."""
    if accelerator.num_processes == 1:
        return sums
    return {name: accelerator.reduce(value, reduction="sum") for name, value in sums.items()}  # type: ignore[misc]


def _sync(accelerator: Accelerator, objective: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients travel between processes once a step, with its last micro-batch."""
    return nullcontext() if is_last else keeping_gradients(objective, accelerator)


def _set_rate_(optimizer: torch.optim.Optimizer, settings: TrainingSettings, index: int) -> float:
    """The learning rate of this step, from 0."""
    rate = settings.learning_rate * settings.schedule.factor(index, settings.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def adamw(student: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Decay on matrices only, as is usual: norms and biases have no scale to keep small."""
    matrices = [p for p in student.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in student.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )


def _step(
    index: int,
    means: dict[str, Tensor],
    batch: Batch,
    marks: Marks,
    rate: float,
    gradient_norm: float,
    started: float,
) -> Step:
    parts = {name: value.item() for name, value in means.items() if name != "loss"}
    weight = batch.weight.item()
    tokens, seconds = batch.inputs.numel(), time.perf_counter() - started
    alpha = marks.measure.alpha
    return Step(index, means["loss"].item(), parts, weight, rate, gradient_norm, tokens, seconds, alpha=alpha)


def _is_due(index: int, settings: TrainingSettings) -> bool:
    is_last = index == settings.steps
    return is_last or (settings.checkpoint_every is not None and index % settings.checkpoint_every == 0)


def _check(name: str, value: object, is_legal: bool, range_in_words: str) -> None:
    if not is_legal:
        raise RecipeError(f"{name} must be {range_in_words}, found {value}")
