"""A model on a job's held-out text."""

from __future__ import annotations

from transformers import PreTrainedModel

from potstill.evaluation import Measurement, measure
from potstill.models import on_this_device
from potstill.runs.job import Job
from potstill.teachers import RememberingTeacher


def measured_on_held_out(job: Job, model: PreTrainedModel, beside: RememberingTeacher | None) -> Measurement:
    """In the teacher's vocabulary and the training's dtype; beside the teacher where it is given."""
    return measure(
        on_this_device(model),
        job.held_out,
        length=job.length,
        teacher=beside,
        size=job.teacher.num_tokens,
        dtype=job.settings.dtype,
        masking=job.masking,
    )
