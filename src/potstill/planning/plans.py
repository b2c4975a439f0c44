"""All of it put together: what happens, how long it takes, what it needs, what it costs, and how far that can be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from potstill.errors import RecipeError
from potstill.planning.accelerators import Accelerator
from potstill.planning.disk import disk_of
from potstill.planning.fleet import Fleet
from potstill.planning.labels import bytes_a_label
from potstill.planning.measured import Measured
from potstill.planning.memory import (
    TEXT_AT_MOST,
    Configuration,
    Room,
    configuration_of,
    memory_of_labelling,
    memory_of_learning,
    memory_of_measuring,
    remedies,
    remedies_of_labelling,
)
from potstill.planning.workload import Phase, Stage, Workload, flops_a_token, phases_of
from potstill.soft_labels import UNLIKE

# Weights below which an accelerator waits for its kernels to be started rather than for what they do.
_SMALL = 100e6
# Bytes a weight that a process has in its machine's memory of the models it reads.
_READ = 4

# What memory is needed for: the stages, and what comes before and after learning.
Need = Literal[Stage, "measuring"]


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
    memory    by stage, and of measuring models where that takes more than learning: on one accelerator, or on this machine
    advice    by what doesn't fit, what would make it
    disk      bytes by what they are for, at their most
    devices   accelerators, 1 for this machine
    how       the student is in each of them whole (ddp) or divided among them (fsdp2); None where there is one
    notes     what was measured, what is assumed, what is left out
    """

    phases: tuple[Estimate, ...]
    memory: dict[Need, Room]
    advice: dict[Need, list[str]]
    disk: dict[str, float]
    devices: int
    how: Configuration | None
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
    devices = where.count if isinstance(where, Fleet) else 1
    _check(work, devices, price)

    def estimate(phase: Phase, flops: float, seconds: float, bound: str) -> Estimate:
        return Estimate(phase, flops, seconds, bound, None if price is None else price * devices * seconds / 3_600)

    phases = [
        estimate(
            phase,
            phase.tokens * flops_a_token(work, phase.action),
            where.seconds(work, phase),
            where.bound(work, phase) if isinstance(where, Fleet) else "measured",
        )
        for phase in _with_same_time(work, where, phases_of(work))
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
    there = where.accelerator if isinstance(where, Fleet) else where.there
    how = configuration_of(work, count=devices, there=there)
    memory = _memory(work, devices, there, how)
    if isinstance(where, Measured) and not isinstance(there, Accelerator):
        for need, room in memory.items():
            memory[need] = Room({"process": where.process} | room.needed, room.there)
        there = there - where.process
    return Plan(
        tuple(phases),
        memory,
        {need: _advice(work, need, devices, there) for need, room in memory.items() if room.missing},
        disk_of(work, label_bytes=where.bytes_a_label if isinstance(where, Measured) else None),
        devices,
        None if devices == 1 else how,
        tuple(_notes(work, where)),
    )


def _check(work: Workload, devices: int, price: float | None) -> None:
    if price is not None and not (price >= 0 and math.isfinite(price)):
        raise RecipeError(f"--price is what an accelerator costs an hour, 0 or more, found {price:g}")
    if work.kind == "compress" and devices > 1:
        raise RecipeError(
            f"a search is one process's work, on one accelerator, and --count says {devices}: leave it out"
        )
    if work.rows < devices:
        raise RecipeError(
            f"a step has {work.rows} sequences and there are {devices} accelerators, which would have nothing to do: set training.rows "
            f"to {devices} or more (--set training.rows={devices}), or take fewer"
        )


def _with_same_time(work: Workload, where: Fleet | Measured, phases: list[Phase]) -> list[Phase]:
    """The same, with the control that learns for as long as the student did: how many tokens that is depends on where."""
    if not work.same_time:
        return phases
    name = "a control learns for as long as the student"
    hard = Phase(work.kind, name, "learn_hard", float(work.tokens), float(work.steps))
    soft = sum(where.seconds(work, phase) for phase in phases if phase.action in ("learn", "write"))
    times = soft / max(where.seconds(work, hard), 1e-9)
    longer = replace(hard, tokens=times * hard.tokens, steps=times * hard.steps)
    place = next(number for number, phase in enumerate(phases) if phase.action == "learn_hard")
    return [*phases[: place + 1], longer, *phases[place + 1 :]]


def _memory(work: Workload, devices: int, there: Accelerator | float, how: Configuration) -> dict[Need, Room]:
    memory: dict[Need, Room] = {}
    if work.labelled:
        memory["label"] = memory_of_labelling(work, there=there)
    learning, measuring = (
        memory_of_learning(work, count=devices, there=there, how=how),
        memory_of_measuring(work, there=there),
    )
    memory[work.kind] = learning
    if measuring.total > learning.total:
        memory["measuring"] = measuring
    return memory


def _advice(work: Workload, need: Need, devices: int, there: Accelerator | float) -> list[str]:
    match need:
        case "label":
            return remedies_of_labelling(work, there=there)
        case "measuring":
            return []  # both models have to be whole on one device
        case "distill" | "compress":
            return remedies(work, count=devices, there=there)


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
                f"assumed: {where.wire / 1e9:,.0f} GB/s between accelerators, used while they compute; machines of eight"
            )
            notes += _of_sharing(work, where)
    if work.labelled and not (isinstance(where, Measured) and where.bytes_a_label):
        size = bytes_a_label(work.labels, work.teacher)
        notes.append(
            f"assumed: {size:.1f} bytes a label, as measured on SmolLM2 (benchmarks/store.md)"
            + (f"; text unlike the teacher's takes up to {UNLIKE * size:.0f}" if work.labels.tier == "sampled" else "")
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


def _of_sharing(work: Workload, where: Fleet) -> list[str]:
    """How the processes share the student, and what none of them shares."""
    how = where.configuration(work)
    words = {
        "ddp": "all of student and teacher on each accelerator",
        "fsdp2": "the student divided over all of them, and a live teacher's layers; models are measured whole",
    }
    if (together := work.together(where.count)) > 1:
        groups = "all of them" if together == where.count else f"each {together} of them"
        words = {
            "ddp": f"all of the student on each accelerator, the teacher's layers divided over {groups}; models are measured whole",
            "fsdp2": f"the student divided over all of them, the teacher's layers over {groups}; models are measured whole",
        }
    both = _READ * (work.teacher.parameters + work.student.parameters)
    return [
        f"planned for recipes/accelerate/{how}.yaml: {words[how]}",
        f"the machine's own memory: about {both / 1e9:,.1f} GB in each process, for both models as they are read",
    ]
