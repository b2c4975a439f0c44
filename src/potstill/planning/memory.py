"""Bytes on one accelerator by what they are for; and what to do where they are too many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from potstill.planning.accelerators import Accelerator
from potstill.planning.shapes import ModelShape
from potstill.planning.workload import Workload

# Values a layer keeps for its backward pass, a token: in widths of the hidden state, and in widths of the FFN (Korthikanti et al.
# 2022, arXiv:2205.05198, eq. 2, for a gated FFN and an attention that keeps no square of the length).
_KEPT_HIDDEN, _KEPT_FFN = 12, 4
# Both models' logits of a chunk, at most, and the blocks whose row mathematics is in fp32 (losses/engine.py).
_CHUNK_BYTES, _BLOCK_BYTES = {"cpu": 384 * 2**20, "gpu": 2**30}, {"cpu": 3 * 2**21, "gpu": 3 * 2**28}
_MOST_ROWS = 2048
_GRADIENT, _MOMENTS, _WEIGHT, _NARROW = 4, 8, 4, 2
# Of an accelerator: its driver's, and what an allocator can't use. On a CPU the libraries' own is measured instead.
_RESERVED = 2 * 2**30
_MARGIN = 0.95
_MOST_POWER = 15  # of two: accelerators that are thought of
# Rows whose logits labelling makes at once, in fp32, with as much again for probabilities (soft_labels/capture.py).
_LABEL_ROWS = 256
# Sequences of a pass that measures, and fp32 logits of its chunks (evaluation/measuring.py).
_MEASURED_ROWS, _MEASURED_BYTES = 16, {"cpu": 8 * 2**20, "gpu": 64 * 2**20}
# Bytes a token of text in the machine's own memory, at most: while a process divides and packs it (docs/scale.md).
TEXT_AT_MOST = 25

Configuration = Literal["ddp", "fsdp2"]


@dataclass(frozen=True)
class Room:
    """Bytes by what they are for, beside those that there are (infinite where nobody said)."""

    needed: dict[str, float]
    there: float = math.inf

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.needed.values())

    @property
    def missing(self) -> float:
        """How much too little there is; 0 where it fits."""
        return max(0.0, self.total - self.there)


def configuration_of(work: Workload, *, count: int, there: Accelerator | float) -> Configuration:
    """How so many processes share the student (recipes/accelerate/): all of it in each, or where only that fits, or is nearer to it, a
    part in each. A student that writes its own text is never divided."""
    if count == 1 or not isinstance(there, Accelerator) or work.writing is not None:
        return "ddp"
    whole, divided = (memory_of_learning(work, count=count, there=there, how=how) for how in ("ddp", "fsdp2"))
    return "ddp" if not whole.missing or whole.total <= divided.total else "fsdp2"


def memory_of_learning(
    work: Workload, *, count: int = 1, there: Accelerator | float = math.inf, how: Configuration = "ddp"
) -> Room:
    """Of one of `count` processes, while the student learns. `there`: an accelerator, or the bytes of a machine without one."""
    is_gpu = isinstance(there, Accelerator)
    share = max(1, math.ceil(work.rows / count))
    micro_rows = min(work.micro_rows or share, share)
    tokens = micro_rows * work.length
    if work.writing is not None:
        tokens = min(tokens, work.tokens_per_step)
    together = work.together(count)
    shards = together if together > 1 else count if how == "fsdp2" else 1
    needed: dict[str, float] = dict(_teacher_beside(work, shards, is_gpu=is_gpu))
    if together > 1:  # the rows of all of them go through it in each
        needed["teacher's pass"] = float(
            together * tokens * (_passing(work, work.teacher) + work.bytes * work.teacher.width)
        )
    needed |= _of_student(work, count, how, is_one_pass=micro_rows == share)
    if work.bytes < _WEIGHT:
        # Autocast makes them in a pass's forward and keeps them to its end; divided layers are gathered so, and given back.
        copied = work.student.head + (0 if how == "fsdp2" and not work.student.is_mixture else work.student.inside)
        needed["16-bit copies"] = float(_NARROW * copied)
    needed["activations"] = float(tokens) * _activations(work)
    needed["head's gradient"] = float(_GRADIENT * work.student.head)
    needed["loss, a chunk"] = _loss(work, tokens, "gpu" if is_gpu else "cpu")
    if work.writing is not None:
        needed["key-value cache"] = (
            max(1.0, work.writing.side_by_side / count) * work.length * work.student.cache * work.bytes
        )
    return _room(needed, there)


def memory_of_labelling(work: Workload, *, there: Accelerator | float = math.inf) -> Room:
    """Of each process, while the teacher, whole in each, marks text for a store."""
    teacher = work.teacher
    needed = {"teacher": work.teacher_bytes * teacher.parameters}
    needed["activations"] = work.label_rows * work.length * _passing(work, work.teacher)
    needed["logits, a chunk"] = 3 * 4 * _LABEL_ROWS * teacher.vocabulary
    return _room(needed, there)


def memory_of_measuring(work: Workload, *, there: Accelerator | float = math.inf) -> Room:
    """Of each process, before and after learning: a student in fp32 is measured beside the teacher, both whole, stored labels or not."""
    tokens = _MEASURED_ROWS * work.length
    needed = {"teacher": work.teacher_bytes * work.teacher.parameters, "student": _WEIGHT * work.student.parameters}
    needed["activations"] = tokens * max(_passing(work, work.teacher), _passing(work, work.student))
    needed["hidden states"] = tokens * work.bytes * (work.teacher.width + work.student.width)
    chunk = _MEASURED_BYTES["gpu" if isinstance(there, Accelerator) else "cpu"]
    needed["logits, a chunk"] = 3 * min(chunk, 4 * tokens * work.student.vocabulary)
    return _room(needed, there)


def remedies(work: Workload, *, count: int, there: Accelerator | float) -> list[str]:
    """What each by itself makes the training fit: what to write, cheapest first. Empty where nothing does."""
    if memory_of_measuring(work, there=there).missing:
        return []  # no setting and no number of accelerators makes that less
    found = [words for words, changed in _lighter(work) if _fits(changed, count, there)][:1]
    if isinstance(there, Accelerator) and (more := _fewest(work, there, count)) is not None:
        found.append(f"--count {more}" + (f" and training.rows = {more}" if more > work.rows else ""))
    return found


def remedies_of_labelling(work: Workload, *, there: Accelerator | float) -> list[str]:
    """The same for labelling: fewer rows a pass."""
    return [] if memory_of_labelling(replace(work, label_rows=1), there=there).missing else ["labels.rows = 1"]


def _lighter(work: Workload) -> Iterator[tuple[str, Workload]]:
    """Settings that take less, each with those before it; what is set already is not said again."""
    said, least = [], work
    if work.micro_rows != 1:
        said, least = [*said, "training.micro_rows = 1"], replace(least, micro_rows=1)
        yield " and ".join(said), least
    if not work.gradient_checkpointing:
        said, least = [*said, "training.gradient_checkpointing = true"], replace(least, gradient_checkpointing=True)
        yield " and ".join(said), least
    if not work.is_stored and work.writing is None:
        words = 'labels from disk (`potstill label`, then teacher.kind = "stored")'
        yield " and ".join([*said, words]), replace(least, is_stored=True)


def _fits(work: Workload, count: int, there: Accelerator | float) -> bool:
    how = configuration_of(work, count=count, there=there)
    return not memory_of_learning(work, count=count, there=there, how=how).missing


def _fewest(work: Workload, there: Accelerator, count: int) -> int | None:
    """How many accelerators hold it: the next power of two, or of groups that run one teacher."""
    if work.kind == "compress":
        return None
    group = max(1, int(work.tensor_parallel))
    more = (group * 2**power for power in range(_MOST_POWER) if group * 2**power > count)
    return next((one for one in more if _fits(replace(work, rows=max(work.rows, one)), one, there)), None)


def _teacher_beside(work: Workload, shards: int, *, is_gpu: bool) -> Iterator[tuple[str, float]]:
    """What of the teacher is there while the student learns: all of a live one, divided by layers; of a stored one its head, where labels
    are hidden states; without an accelerator its weights, too, which have nowhere else to go."""
    teacher = work.teacher
    if work.is_stored:
        if not is_gpu:
            yield "teacher", float(work.teacher_bytes * teacher.parameters)
        if work.reads_head:
            narrow = _NARROW if work.bytes < _WEIGHT else 0
            yield "teacher's head", float((_WEIGHT + narrow) * teacher.head)
        return
    shards = 1 if work.is_translated else shards
    yield "teacher", work.teacher_bytes * (teacher.inside / shards + teacher.outside)
    if shards > 1 and not work.tensor_parallel:
        yield "teacher's layers, gathered", float(2 * work.teacher_bytes * teacher.largest)


def _of_student(work: Workload, count: int, how: Configuration, *, is_one_pass: bool) -> dict[str, float]:
    """Weights, gradients and moments."""
    student, shards = work.student, count if how == "fsdp2" else 1
    gradients = _GRADIENT * work.trained
    found = {"student": _WEIGHT * student.parameters / shards, "optimizer": _MOMENTS * work.trained / shards}
    if how == "fsdp2":
        found["gathered"] = float(_WEIGHT * student.outside + 2 * work.gathered_bytes * student.largest)
        if is_one_pass:  # of several, gradients stay whole until the last
            learn = 1.0 if work.lora is None else 0.0
            whole = learn * student.outside + (student.largest if work.lora is None else work.lora * student.largest)
            gradients = min(gradients, gradients / shards + _GRADIENT * whole)
    elif count > 1:
        found["gradients, as sent"] = gradients
    return {**found, "gradients": gradients}


def _passing(work: Workload, shape: ModelShape) -> int:
    """Bytes a token of a layer that keeps nothing for later."""
    return work.bytes * (4 * shape.width + 3 * shape.ffn + 2 * shape.attention)


def _activations(work: Workload) -> float:
    """Bytes a token."""
    student = work.student
    layer = _KEPT_HIDDEN * student.width + _KEPT_FFN * student.ffn
    if work.gradient_checkpointing:
        return float(work.bytes * (student.layers * student.width + layer))
    return float(work.bytes * student.layers * layer)


def _loss(work: Workload, tokens: int, device: str) -> float:
    """Logits of a chunk of rows, the teacher's beside them where it has a head there, and the hidden states of both with the student's
    gradient."""
    is_dense = work.reads_head or not work.is_stored
    logits = min(_CHUNK_BYTES[device], (1 + is_dense) * work.bytes * min(tokens, _MOST_ROWS) * work.student.vocabulary)
    states = work.bytes * tokens * (2 * work.student.width + is_dense * work.teacher.width)
    return float(logits + min(_BLOCK_BYTES[device], 3 * 4 * tokens * work.student.vocabulary) + states)


def _room(needed: Mapping[str, int | float], there: Accelerator | float) -> Room:
    if not isinstance(there, Accelerator):
        return Room(_floats(needed), there)
    return Room(_floats({**needed, "reserved": _RESERVED}), _MARGIN * there.memory)


def _floats(sizes: Mapping[str, int | float]) -> dict[str, float]:
    return {name: float(size) for name, size in sizes.items()}
