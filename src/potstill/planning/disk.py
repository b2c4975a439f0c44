"""Bytes on disk."""

from __future__ import annotations

from potstill.planning.labels import bytes_a_label
from potstill.planning.workload import Workload

_STATE = 12  # bytes a parameter of a checkpoint: weights and two moments
_CHECKPOINTS = 3  # two are kept, a third is being written
_WIDE = 4  # bytes a number of the teacher's head, which lies beside its hidden states
_TEXT = 8  # bytes a token of the run's own copy of its text: id and weight


def disk_of(work: Workload, *, label_bytes: float | None = None) -> dict[str, float]:
    """Bytes by what they are for, at their most. `label_bytes`: of one prediction, where that was measured."""
    of_label = bytes_a_label(work.labels, work.teacher) if label_bytes is None else label_bytes
    store = of_label * work.labelled
    if work.labels.tier == "hidden" and work.labelled:
        store += _WIDE * work.teacher.head
    state = 4 * work.student.parameters + (_STATE - 4) * work.trained
    kept = 5 + 3 * (work.cuts - 1) if work.kind == "compress" else 0  # candidates whose training may go on
    checkpoints = (2 * kept if kept else min(_CHECKPOINTS, 1 + work.steps // work.checkpoint_every)) * state
    students = (1 + work.controls + work.same_time + kept) * 4 * work.student.parameters
    found = {"labels": store, "checkpoints": checkpoints, "students": students, "text": _TEXT * work.text}
    return {name: float(size) for name, size in found.items() if size}
