"""What will it take? FLOPs, time, memory, disk and money of a run, before anybody spends them.

In: the shapes of teacher and student, as configurations give them, and how much text goes through which of them (`Workload`). Where: a
`Fleet` of accelerators, from their data sheets and stated assumptions, or this machine, from a few real steps (`Measured`). Out: a `Plan`.

    teacher, student = shape_of(load_shape("teacher/")), shape_of(load_shape("student/"))
    work = Workload("distill", teacher, student, steps=10_000, rows=256, length=4_096, is_stored=True, labelled=10**10)
    plan = plan_of(work, Fleet(accelerator("h100"), count=64), price=2.5)
    plan.seconds, plan.cost, plan.memory, plan.disk

A FLOP is counted where a matmul has it: 2 a weight a token forward, 4 backward (Kaplan et al. 2020, arXiv:2001.08361, 2.1), and the
attention's own. What is assumed and what was measured stands in `Plan.notes`.

shapes.py        ModelShape: counts of a model, from its configuration alone
workload.py      Workload: how much text goes through what; Phase: one thing after another; operations a token
accelerators.py  the table of data sheets
fleet.py         so many accelerators side by side: computing, what travels between them, memory that is read
measured.py      this machine: tried, not counted
memory.py        bytes on one accelerator by what they are for, and what to do where they are too many
labels.py        LabelFormat: bytes of a label on disk
disk.py          bytes on disk
plans.py         all of it put together
"""

from potstill.planning.accelerators import ACCELERATORS, Accelerator, accelerator
from potstill.planning.disk import disk_of
from potstill.planning.fleet import Fleet
from potstill.planning.labels import LabelFormat, bytes_a_label
from potstill.planning.measured import Measured, Trial, memory_of_machine, memory_of_process, try_out
from potstill.planning.memory import (
    Configuration,
    Room,
    configuration_of,
    memory_of_labelling,
    memory_of_learning,
    memory_of_measuring,
    remedies,
    remedies_of_labelling,
)
from potstill.planning.plans import Estimate, Need, Plan, plan_of
from potstill.planning.shapes import ModelShape, shape_of
from potstill.planning.workload import Phase, Workload, Writing, flops_a_token, phases_of

__all__ = [
    "ACCELERATORS",
    "Accelerator",
    "Configuration",
    "Estimate",
    "Fleet",
    "LabelFormat",
    "Measured",
    "ModelShape",
    "Need",
    "Phase",
    "Plan",
    "Room",
    "Trial",
    "Workload",
    "Writing",
    "accelerator",
    "bytes_a_label",
    "configuration_of",
    "disk_of",
    "flops_a_token",
    "memory_of_labelling",
    "memory_of_learning",
    "memory_of_machine",
    "memory_of_measuring",
    "memory_of_process",
    "phases_of",
    "plan_of",
    "remedies",
    "remedies_of_labelling",
    "shape_of",
    "try_out",
]
