"""How fast this machine is at this work: a few real steps of it, and what is made of them thrown away."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel

from potstill.data import Masking, PackedBatches, TextBatches, TokenCorpus
from potstill.evaluation import measure, speed
from potstill.losses import HARD_LABELS, FeatureLoss, Measure, SoftLabelLoss
from potstill.models import head_of, on_this_device, this_device
from potstill.planning.accelerators import Accelerator
from potstill.planning.workload import Action, Phase, Workload
from potstill.runs import held_out_sample
from potstill.soft_labels import Manifest, Store, begin_store, label
from potstill.teachers import LiveTeacher, RememberingTeacher, StoredTeacher
from potstill.training import OnPolicy, TrainingSettings, train
from potstill.training.loop import adamw
from potstill.types import Teacher

_STEPS, _PASSES, _DECODED, _TIMINGS = 4, 3, 4, 6
_SHARE = 0.2  # of the time that may be taken, for each of the things that are tried


@dataclass(frozen=True)
class Measured:
    """This machine at this work.

    seconds_a_token  by action; of learning without the optimizer's part
    seconds_a_step   of the optimizer
    seconds_before   starting, loading, checking, reading the text: before the first step of a process
    seconds_timing   of timing teacher and student at the end, once
    bytes_a_label    of a stored label; None where none is stored
    process          bytes of memory that the process takes besides models: libraries and text
    memory           bytes that models have on this machine: its accelerator's, where it has one
    on_accelerator   whether it has one
    took             seconds that measuring took
    """

    seconds_a_token: Mapping[Action, float]
    seconds_a_step: float
    seconds_before: float = 0.0
    seconds_timing: float = 0.0
    bytes_a_label: float | None = None
    process: float = 0.0
    memory: float = float("inf")
    on_accelerator: bool = False
    took: float = 0.0

    @property
    def there(self) -> Accelerator | float:
        """What models have room on: an accelerator of which only the memory is known, or bytes of the machine's own memory."""
        rate = float("inf")
        return Accelerator("this one", rate, self.memory, rate, rate, rate) if self.on_accelerator else self.memory

    def seconds(self, work: Workload, phase: Phase) -> float:
        """Of a phase."""
        return phase.tokens * self.seconds_a_token[phase.action] + phase.steps * self.seconds_a_step


@dataclass(frozen=True)
class Trial:
    """What is tried: the run's own teacher, student, text and loss.

    text       what the student learns from, `length` tokens a sequence
    corpus     the same as documents, to be labelled
    held_out   what models are measured on
    teacher_held_out  the same in the tokens of a teacher of another tokenizer, beside whom students are not measured
    manifest   of the store of labels, where there is to be one; is_stored: these mark
    control    whether hard labels are learned from, too
    times      whether teacher and student are timed at the end
    seconds    that may be taken
    """

    teacher: LiveTeacher
    marker: Teacher
    student: PreTrainedModel
    text: TextBatches | OnPolicy
    corpus: TokenCorpus
    held_out: TokenCorpus
    measure: Measure
    settings: TrainingSettings
    length: int
    features: FeatureLoss | None = None
    masking: Masking | None = None
    teacher_held_out: TokenCorpus | None = None
    manifest: Manifest | None = None
    is_stored: bool = False
    control: bool = True
    times: bool = True
    seconds: float = 50.0


def try_out(trial: Trial, *, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """Label a little, measure a little, learn a few steps. The student is changed by it.

    clock  of seconds: that on the wall, or the process's own where others use this machine at the same time
    """
    began = clock()
    for model in (trial.teacher.model, trial.student):
        on_this_device(model)
    found: dict[Action, float] = {}
    with TemporaryDirectory() as place:
        marker, text, size = trial.marker, trial.text, None
        if trial.manifest is not None:
            few = held_out_sample(trial.corpus, _PASSES * trial.manifest.rows * trial.length, trial.length)
            found["mark"], size = _labelling(trial, trial.manifest, few, Path(place), clock)
            if trial.is_stored and isinstance(trial.measure, SoftLabelLoss):
                marker = StoredTeacher(
                    Store(Path(place)), few, tokenizer=trial.manifest.tokenizer, measure=trial.measure
                )
                text = PackedBatches(few, trial.length, trial.text.rows)
        found["read_teacher"], found["read_student"] = _reading(trial, clock)
        found["weigh"] = found["read_teacher"]
        optimizer = _optimizing(trial, clock)
        learning = _learning(trial, marker, text, trial.measure, clock)
        found["learn"] = max(0.0, learning.step - optimizer) / learning.tokens
        found["write"] = learning.writing
        if trial.control:
            hard = _learning(
                trial, None, trial.text.corpus if isinstance(trial.text, OnPolicy) else text, HARD_LABELS, clock
            )
            found["learn_hard"] = max(0.0, hard.step - optimizer) / hard.tokens
    timing = _timing(trial, clock) if trial.times else 0.0
    return Measured(found, optimizer, seconds_timing=timing, bytes_a_label=size, took=clock() - began)


def memory_of_machine() -> float:
    """Bytes of memory that models have on this machine: its accelerator's, where it has one."""
    if this_device().type == "cuda":
        return float(torch.cuda.get_device_properties(this_device()).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def memory_of_process() -> float:
    """Bytes of memory that this process has now; where the system doesn't say, the most it had."""
    with suppress(OSError):
        return float(os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text("ascii").split()[1]))
    return float(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _labelling(
    trial: Trial, manifest: Manifest, few: TokenCorpus, folder: Path, clock: Callable[[], float]
) -> tuple[float, float]:
    """(seconds, bytes) a prediction. The first pass warms up."""
    begin_store(folder, manifest, few, head_of(trial.teacher.model))
    began, first = clock(), None
    tokens = 0
    for done in label(trial.teacher, few, folder):
        if done.tokens and first is None:
            first = clock(), done.tokens
        tokens = done.tokens
    store = Store(folder)
    warm, before = first if first is not None and first[1] < tokens else (began, 0)
    return (clock() - warm) / max(1, tokens - before), store.num_bytes / max(1, store.num_tokens)


def _reading(trial: Trial, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds a token of measuring (the teacher, the student beside what the teacher said)."""

    def few_of(corpus: TokenCorpus, rows: int) -> TokenCorpus:
        return held_out_sample(corpus, rows * trial.length, trial.length)

    def seconds(model: PreTrainedModel, few: TokenCorpus, teacher: Teacher | None, size: int) -> float:
        began = clock()
        measure(
            model,
            few,
            length=trial.length,
            teacher=teacher,
            size=size,
            dtype=trial.settings.dtype,
            masking=trial.masking,
        )
        return (clock() - began) / max(1, few.num_tokens)

    few, theirs = few_of(trial.held_out, 16), few_of(trial.teacher_held_out or trial.held_out, 16)
    is_translated = trial.teacher_held_out is not None
    beside = None if is_translated else RememberingTeacher(trial.teacher)
    size = (trial.marker if is_translated else trial.teacher).num_tokens
    seconds(trial.student, few_of(few, 1), None, size)  # warms up
    alone = seconds(trial.teacher.model, theirs, None, trial.teacher.num_tokens)
    seconds(trial.student, few, beside, size)
    return alone, seconds(trial.student, few, beside, size)


@dataclass(frozen=True)
class _Learned:
    step: float
    tokens: int
    writing: float


def _learning(
    trial: Trial, marker: Teacher | None, text: TextBatches | OnPolicy, measure: Measure, clock: Callable[[], float]
) -> _Learned:
    """The median step after the first, which warms up; writing is told apart."""
    refresh = text.refresh_every if isinstance(text, OnPolicy) else 1
    most = 1 + max(_STEPS, refresh)
    settings = replace(trial.settings, steps=most, checkpoint_every=None)
    features = trial.features if measure.needs_teacher else None
    seconds, tokens, writing, written = [], 1, 0.0, 0
    began = last = clock()
    steps: Iterator = train(trial.student, marker, text, measure, settings, features=features)
    with suppress(StopIteration):
        while len(seconds) < 2 or (len(seconds) < most and clock() - began < _SHARE * trial.seconds):
            step = next(steps)
            wrote = 0.0 if step.written is None else step.written.seconds
            seconds.append(max(0.0, clock() - last - wrote))
            if step.written is not None:
                writing, written = writing + wrote, written + step.written.tokens
            tokens, last = step.tokens, clock()
    return _Learned(statistics.median(seconds[1:]), tokens, writing / max(1, written))


def _optimizing(trial: Trial, clock: Callable[[], float]) -> float:
    """Seconds of a step of AdamW over the student's weights, with the gradient's norm taken."""
    weights = [weight for weight in trial.student.parameters() if weight.requires_grad]
    optimizer = adamw(trial.student, replace(trial.settings, learning_rate=1e-12))
    seconds = []
    for _ in range(_PASSES):
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        began = clock()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if norm.device.type != "cpu":
            torch.accelerator.synchronize(norm.device)
        seconds.append(clock() - began)
    optimizer.zero_grad(set_to_none=True)
    return min(seconds)


def _timing(trial: Trial, clock: Callable[[], float]) -> float:
    """Seconds that timing teacher and student takes at the end of a run: a prompt of 128 tokens and 32 written, six times each."""
    total = 0.0
    for model in (trial.teacher.model, trial.student):
        began, on_the_wall = clock(), time.perf_counter()
        found = speed(model, new_tokens=_DECODED)
        share = (clock() - began) / (time.perf_counter() - on_the_wall)
        writes = 0.0 if found.decode_tokens_per_second is None else 32 / found.decode_tokens_per_second
        total += share * _TIMINGS * (128 / found.prefill_tokens_per_second + writes)
    return total
