"""What a search will take, before it starts: time, disk, memory."""

from __future__ import annotations

from dataclasses import dataclass

from potstill.errors import ModelError
from potstill.models import size_of
from potstill.runs import estimate
from potstill.search.compression import Search
from potstill.students import Shape, cuttable_axes, shape_of_share, shaped

# Of the chosen student's own training, all that the search trains besides: measured in benchmarks/search.md.
_BESIDES = 2.4
_BYTES_A_LABEL = 60  # of a stored label, with text unlike the teacher's
_STATE = 12  # bytes a parameter of a checkpoint: weights and two moments


@dataclass(frozen=True)
class Plan:
    """seconds, bytes of disk and of memory, roughly."""

    seconds: float
    disk: float
    memory: float


def plan_of(search: Search, *, device: str) -> Plan:
    """For a student of half the teacher's size, whatever the limits."""
    job = search.job
    model = job.teacher.model
    axes = dict(cuttable_axes(model))
    try:
        student = shaped(model, shape_of_share(model, axes, 0.5), axes)
    except ModelError:  # what can't be narrower is cut in depth
        layers = tuple(range(max(1, model.config.num_hidden_layers // 2)))
        student = shaped(model, Shape(layers), axes)
    micro = job.settings.micro_rows or job.batches.rows
    found = estimate(
        model,
        student,
        tokens=search.tokens,
        micro_rows=micro,
        length=job.length,
        dtype=job.settings.dtype,
        device=device,
    )
    marked = job.texts.learn.num_tokens
    marking = (found.seconds_soft - found.seconds_hard) * marked / max(1, search.tokens)
    measured = 12 * (job.texts.search.num_tokens + job.texts.held_out.num_tokens) / max(1, search.tokens)
    trained = found.seconds_hard * (1 + _BESIDES + job.control)
    parameters = size_of(student).total
    return Plan(
        marking + trained + measured * found.seconds_hard,
        float(_BYTES_A_LABEL * marked + 4 * _STATE * parameters + 10 * 4 * parameters),
        float(sum(found.memory.values())),
    )
