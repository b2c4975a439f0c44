"""All of it put together: what happens, how long it takes, what it needs, what it costs, and how far that can be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from potstill.errors import RecipeError
from potstill.planning.accelerators import Accelerator
from potstill.planning.disk import disk_of
from potstill.planning.fleet import Fleet
from potstill.planning.labels import bytes_a_label
from potstill.planning.measured import Measured
from potstill.planning.memory import (
    TEXT_AT_MOST,
    Room,
    memory_of_labelling,
    memory_of_learning,
    remedies,
    remedies_of_labelling,
)
from potstill.planning.workload import Phase, Stage, Workload, flops_a_token, phases_of

# Weights below which an accelerator waits for its kernels to be started rather than for what they do.
_SMALL = 100e6


@dataclass(frozen=True)
class Estimate:
    """Of a phase: operations, seconds, what most of the time goes into, and money where a price was given."""

    phase: Phase
    flops: float
    seconds: float
    bound: str
    cost: float | None


@dataclass(frozen=True)
class Plan:
    """Of a run.

    phases    in order
    memory    by stage: on one accelerator, or on this machine
    advice    by stage that doesn't fit, what would make it
    disk      bytes by what they are for, at their most
    devices   accelerators, 1 for this machine
    notes     what was measured, what is assumed, what is left out
    """

    phases: tuple[Estimate, ...]
    memory: dict[Stage, Room]
    advice: dict[Stage, list[str]]
    disk: dict[str, float]
    devices: int
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """From beginning to end."""
        return sum(one.seconds for one in self.phases)

    @property
    def flops(self) -> float:
        """All operations counted."""
        return sum(one.flops for one in self.phases)

    @property
    def cost(self) -> float | None:
        """Of all accelerators for that long."""
        costs = [one.cost for one in self.phases if one.cost is not None]
        return sum(costs) if costs else None


def plan_of(work: Workload, where: Fleet | Measured, *, price: float | None = None) -> Plan:
    """The plan. `price`: of one accelerator (or of this machine) an hour. RecipeError for what could not be started."""
    if price is not None and not (price >= 0 and math.isfinite(price)):
        raise RecipeError(f"--price is what an accelerator costs an hour, 0 or more, found {price:g}")
    devices = where.count if isinstance(where, Fleet) else 1
    if work.rows < devices:
        raise RecipeError(
            f"a step has {work.rows} sequences and there are {devices} accelerators, which would have nothing to do: set training.rows "
            f"to {devices} or more (--set training.rows={devices}), or take fewer"
        )

    def estimate(phase: Phase, flops: float, seconds: float, bound: str) -> Estimate:
        return Estimate(phase, flops, seconds, bound, None if price is None else price * devices * seconds / 3_600)

    phases = [
        estimate(
            phase,
            phase.tokens * flops_a_token(work, phase.action),
            where.seconds(work, phase),
            where.bound(work, phase) if isinstance(where, Fleet) else "measured",
        )
        for phase in phases_of(work)
    ]
    if isinstance(where, Measured):
        # Labelling is a process of its own, and loads and reads by itself.
        stages: tuple[Stage, ...] = ("label", work.kind) if work.labelled and work.kind == "distill" else (work.kind,)
        before = [
            estimate(
                Phase(stage, "starting, loading, reading the text", "weigh", 0.0), 0.0, where.seconds_before, "measured"
            )
            for stage in stages
        ]
        after = estimate(
            Phase(work.kind, "timing teacher and student", "weigh", 0.0), 0.0, where.seconds_timing, "measured"
        )
        phases = [one for one in (*before, *phases, after) if one.seconds > 0]
    there: Accelerator | float = where.accelerator if isinstance(where, Fleet) else where.memory
    memory: dict[Stage, Room] = {}
    if work.labelled:
        memory["label"] = memory_of_labelling(work, count=devices, there=there)
    memory[work.kind] = memory_of_learning(work, count=devices, there=there)
    if isinstance(where, Measured):
        for stage, room in memory.items():
            memory[stage] = Room({"process": where.process} | room.needed, room.there)
        there = where.memory - where.process
    advice: dict[Stage, list[str]] = {
        stage: (remedies_of_labelling if stage == "label" else remedies)(work, count=devices, there=there)
        for stage, room in memory.items()
        if room.missing
    }
    return Plan(
        tuple(phases),
        memory,
        advice,
        disk_of(work, label_bytes=where.bytes_a_label if isinstance(where, Measured) else None),
        devices,
        tuple(_notes(work, where)),
    )


def _notes(work: Workload, where: Fleet | Measured) -> list[str]:
    """What is known how."""
    if isinstance(where, Measured):
        notes = [f"measured: seconds a token and a step, from a few real steps here ({where.took:.0f} s of measuring)"]
    else:
        gpu = where.accelerator
        notes = [
            f"assumed: matmuls reach {where.utilization:.0%} of {gpu.flops / 1e12:,.0f} TFLOP/s (--mfu); by the data sheet "
            f"{gpu.memory / 1e9:g} GB and {gpu.bandwidth / 1e9:,.0f} GB/s; nothing was measured there"
        ]
        if where.count > 1:
            notes.append(
                f"assumed: {where.wire / 1e9:,.0f} GB/s between accelerators, used while they compute; machines of eight; the student is "
                "sharded over all of them, a teacher that takes more than half of one as well"
            )
    if work.labelled and not (isinstance(where, Measured) and where.bytes_a_label):
        notes.append(
            f"assumed: {bytes_a_label(work.labels, work.teacher):.1f} bytes a label, as measured on SmolLM2 (benchmarks/store.md)"
        )
    if work.text:
        notes.append(
            f"the machine's own memory: at most {TEXT_AT_MOST * work.text / 1e9:,.2f} GB in each process, for the text while it is divided"
        )
    if isinstance(where, Fleet) and work.student.active < _SMALL:
        notes.append("left out: starting kernels, which is most of the time for models as small as this student")
    if work.kind == "compress":
        notes.append(
            "assumed: a student of half the teacher's size, and as many candidates as other searches trained (benchmarks/search.md)"
        )
    return notes
