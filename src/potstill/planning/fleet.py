"""So many accelerators side by side, each with its share of a step's rows, and all of the student or a part (docs/many-processes.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from potstill.errors import RecipeError
from potstill.planning.accelerators import Accelerator
from potstill.planning.memory import Configuration, configuration_of
from potstill.planning.workload import Action, Phase, Workload, flops_a_token

# Of the peak that a training reaches. Llama 3 405B was trained at 38 to 43 % of it on 8,192 to 16,384 H100s (arXiv:2407.21783, table 4).
UTILIZATION = 0.40
# Of a data sheet's bandwidths that programs reach.
_REACHED = 0.75
_NEIGHBOURS = 8  # accelerators in one machine
# Labelling beside the teacher's bare passes (benchmarks/store.md: 4.5 % more).
_MARKING = 1.05
# AdamW in fp32 reads weight, gradient and two moments, and writes three of them.
_OPTIMIZER_BYTES = 28
_NARROW, _WIDE = 2, 4
# What each process does whole, however many there are.
_UNSHARED: tuple[Action, ...] = ("read_teacher", "read_student", "weigh")

Bound = Literal["computing", "between accelerators", "memory"]


@dataclass(frozen=True)
class Fleet:
    """`count` accelerators. utilization: the share of their peak that matmuls reach, all told."""

    accelerator: Accelerator
    count: int = 1
    utilization: float = UTILIZATION

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RecipeError(f"--count is how many accelerators, at least 1, found {self.count}")
        if not 0 < self.utilization <= 1:
            raise RecipeError(f"--mfu is a share of the peak, above 0 and at most 1, found {self.utilization:g}")

    @property
    def wire(self) -> float:
        """Bytes a second that one accelerator gets from all others: of a gathered tensor every machine receives each part once, through
        the network cards of all its accelerators."""
        of_network = math.inf if self.count <= _NEIGHBOURS else self.accelerator.network * _NEIGHBOURS
        return _REACHED * min(self.accelerator.link, of_network)

    def _wire_of_group(self, together: int) -> float:
        """The same, from the others of a group of consecutive ones: of a group in several machines, the network cards of those in one."""
        if together == self.count:
            return self.wire
        is_inside = self.count <= _NEIGHBOURS or _NEIGHBOURS % together == 0
        of_network = math.inf if is_inside else self.accelerator.network * math.gcd(together, _NEIGHBOURS)
        return _REACHED * min(self.accelerator.link, of_network)

    def seconds(self, work: Workload, phase: Phase) -> float:
        """Of a phase. Computing and what travels meanwhile go side by side: the longer of the two counts."""
        return max(self.computing(work, phase), self.travelling(work, phase)) + self.reading(work, phase)

    def bound(self, work: Workload, phase: Phase) -> Bound:
        """What most of its time goes into."""
        found: dict[Bound, float] = {
            "computing": self.computing(work, phase),
            "between accelerators": self.travelling(work, phase),
            "memory": self.reading(work, phase),
        }
        return max(found, key=lambda name: found[name])

    def computing(self, work: Workload, phase: Phase) -> float:
        """Seconds of matmuls."""
        count = 1 if phase.action in _UNSHARED else self.count
        speed = self.accelerator.flops * self.utilization * count
        return (_MARKING if phase.action == "mark" else 1.0) * phase.tokens * flops_a_token(work, phase.action) / speed

    def configuration(self, work: Workload) -> Configuration:
        """How the student is shared: the first of the two that fits."""
        return configuration_of(work, count=self.count, there=self.accelerator)

    def travelling(self, work: Workload, phase: Phase) -> float:
        """Seconds of adding up gradients, 4 bytes each, and, where weights are divided, of gathering them: a learning student's are of
        4 bytes. Who labels or measures has whole models."""
        if self.count == 1 or phase.action not in ("learn", "learn_hard"):
            return 0.0
        student, teacher = work.student, work.teacher
        summed, together = 0.0, work.together(self.count)
        if phase.action == "learn" and together > 1:
            # Behind attention and FFN of each layer a group adds up its parts, of its own tokens: sent scattered, and gathered again.
            tokens = phase.tokens * together / self.count
            parts = 4.0 * tokens * teacher.layers * teacher.width * work.bytes * (together - 1) / together
            summed = parts / self._wire_of_group(together)
        if self.configuration(work) == "ddp":
            moved = phase.steps * 2 * _WIDE * work.trained  # scattered, and gathered again
        else:
            # Of rows that go through a model together, all accelerators counted.
            share = min(work.rows, (work.micro_rows or work.rows) * self.count)
            passes = phase.tokens / (share * work.length)
            is_marked = phase.action == "learn" and not (work.is_stored or work.is_translated or work.tensor_parallel)
            layers = 2 * work.gathered_bytes * student.inside + (
                work.teacher_bytes * teacher.inside if is_marked else 0
            )
            moved = passes * layers + phase.steps * _WIDE * (student.outside + work.trained)
        return moved * (self.count - 1) / self.count / self.wire + summed

    def reading(self, work: Workload, phase: Phase) -> float:
        """Seconds that memory alone decides: the optimizer's step, and writing, where all weights are read for each token."""
        speed = _REACHED * self.accelerator.bandwidth
        if phase.action == "write" and work.writing is not None:
            rows = max(1.0, work.writing.side_by_side / self.count)
            cache = rows * work.length / 2 * work.student.cache
            turns = phase.tokens / (rows * self.count)
            return turns * _NARROW * (work.student.parameters + cache) / speed
        shards = self.count if self.configuration(work) == "fsdp2" else 1
        return phase.steps * _OPTIMIZER_BYTES * work.trained / shards / speed
