"""Bytes on one accelerator, by what they are for; and what to do where they are too many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from potstill.planning.accelerators import Accelerator
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
# Bytes a token of text in the machine's own memory, at most: while a process divides and packs it (docs/scale.md).
TEXT_AT_MOST = 25


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


def memory_of_learning(work: Workload, *, count: int = 1, there: Accelerator | float = math.inf) -> Room:
    """Of one of `count` processes, while the student learns. `there`: an accelerator, or the bytes of a machine without one."""
    is_gpu = isinstance(there, Accelerator)
    student, teacher = work.student, work.teacher
    share = max(1, math.ceil(work.rows / count))
    tokens = min(work.micro_rows or share, share) * work.length
    if work.writing is not None:
        tokens = min(tokens, work.tokens_per_step)
    needed: dict[str, float] = {}
    if not work.is_stored:
        shards = count if is_gpu and is_teacher_sharded(work, there, count) else 1
        needed["teacher"] = work.teacher_bytes * teacher.parameters / shards
    needed["student"] = _WEIGHT * student.parameters / count
    needed["gradients"] = _GRADIENT * work.trained / count
    needed["optimizer"] = _MOMENTS * work.trained / count
    if work.bytes < _WEIGHT and count == 1:
        needed["16-bit copies"] = float(_NARROW * (student.parameters - student.head))
    if (
        count > 1
    ):  # layers are gathered when they are needed, the next one while one is at work; the head for the whole step
        needed["gathered"] = 2 * _NARROW * max(student.largest, 0 if work.is_stored else teacher.largest) + (
            _NARROW * (student.head + (0 if work.is_stored else teacher.head))
        )
    needed["activations"] = float(tokens) * _activations(work)
    needed["head's gradient"] = float(_GRADIENT * student.head)
    needed["loss, a chunk"] = _loss(work, tokens, "gpu" if is_gpu else "cpu")
    if work.writing is not None:
        needed["key-value cache"] = (
            max(1.0, work.writing.side_by_side / count) * work.length * student.cache * work.bytes
        )
    return _room(needed, there)


def memory_of_labelling(work: Workload, *, count: int = 1, there: Accelerator | float = math.inf) -> Room:
    """Of one of `count` processes, while the teacher marks text for a store."""
    teacher = work.teacher
    is_sharded = isinstance(there, Accelerator) and is_teacher_sharded(work, there, count)
    needed = {"teacher": work.teacher_bytes * teacher.parameters / (count if is_sharded else 1)}
    if is_sharded:
        needed["gathered"] = _NARROW * (2 * teacher.largest + teacher.head)
    tokens = work.label_rows * work.length
    needed["activations"] = float(tokens * work.bytes * (4 * teacher.width + 3 * teacher.ffn + 2 * teacher.attention))
    needed["logits, a chunk"] = float(3 * 4 * _LABEL_ROWS * teacher.vocabulary)
    return _room(needed, there)


def is_teacher_sharded(work: Workload, there: Accelerator, count: int) -> bool:
    """Whether its weights leave less than half of one accelerator to everything else, and there are others to share them."""
    return count > 1 and work.teacher_bytes * work.teacher.parameters > there.memory / 2


def remedies(work: Workload, *, count: int, there: Accelerator | float) -> list[str]:
    """What each by itself, or with those before it, makes the training fit: what to write, cheapest first. Empty where nothing does."""
    steps: list[tuple[str, Workload]] = []
    least = replace(work, micro_rows=1)
    steps.append(("training.micro_rows = 1", least))
    least = replace(least, gradient_checkpointing=True)
    steps.append(("training.micro_rows = 1 and training.gradient_checkpointing = true", least))
    if not work.is_stored and work.writing is None:
        least = replace(least, is_stored=True)
        steps.append(('these two and labels from disk (`potstill label`, then teacher.kind = "stored")', least))
    found = [words for words, changed in steps if memory_of_learning(changed, count=count, there=there).missing == 0]
    if isinstance(there, Accelerator) and (more := _fewest(work, there, count)) is not None:
        found.append(f"--count {more}" + (f" and training.rows = {more}" if more > work.rows else ""))
    return found


def remedies_of_labelling(work: Workload, *, count: int, there: Accelerator | float) -> list[str]:
    """The same for labelling: fewer rows a pass, or more accelerators to share the teacher's weights."""
    least = replace(work, label_rows=1)
    found = ["labels.rows = 1"] if memory_of_labelling(least, count=count, there=there).missing == 0 else []
    if isinstance(there, Accelerator):
        more = (2**power for power in range(count.bit_length(), _MOST_POWER))
        enough = (one for one in more if memory_of_labelling(work, count=one, there=there).missing == 0)
        found += [f"--count {one}" for one in enough][:1]
    return found


def _fewest(work: Workload, there: Accelerator, count: int) -> int | None:
    """How many accelerators hold it: the next power of two."""
    for power in range(count.bit_length(), _MOST_POWER):
        more = 2**power
        widened = replace(work, rows=max(work.rows, more))
        if memory_of_learning(widened, count=more, there=there).missing == 0:
            return more
    return None


def _activations(work: Workload) -> float:
    """Bytes a token."""
    student = work.student
    layer = _KEPT_HIDDEN * student.width + _KEPT_FFN * student.ffn
    if work.gradient_checkpointing:
        return float(work.bytes * (student.layers * student.width + layer))
    return float(work.bytes * student.layers * layer)


def _loss(work: Workload, tokens: int, device: str) -> float:
    """Logits of a chunk of rows, those of a live teacher beside them, and the hidden states of both with the student's gradient."""
    matrices = 1 if work.is_stored else 2
    logits = min(_CHUNK_BYTES[device], matrices * work.bytes * min(tokens, _MOST_ROWS) * work.student.vocabulary)
    states = work.bytes * tokens * (2 * work.student.width + (0 if work.is_stored else work.teacher.width))
    return float(logits + min(_BLOCK_BYTES[device], 3 * 4 * tokens * work.student.vocabulary) + states)


def _room(needed: Mapping[str, int | float], there: Accelerator | float) -> Room:
    if not isinstance(there, Accelerator):
        return Room(_floats(needed), there)
    return Room(_floats({**needed, "reserved": _RESERVED}), _MARGIN * there.memory)


def _floats(sizes: Mapping[str, int | float]) -> dict[str, float]:
    return {name: float(size) for name, size in sizes.items()}
