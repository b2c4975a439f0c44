"""The control that has a teacher's uncertainty and nothing of what it knows: smoothed labels of the same mean entropy."""

from __future__ import annotations

from itertools import islice

import torch
from accelerate import PartialState

from potstill.losses import TranslatedLoss
from potstill.losses.support import over_students_tokens
from potstill.models import load_model, on_this_device, this_device
from potstill.runs.folder import STUDENT, RunFolder
from potstill.runs.job import Job
from potstill.teachers import LiveTeacher, SmoothingTeacher, entropies, is_stored, smoothing_of_entropy
from potstill.types import Teacher

SMOOTHED = "smoothed_labels"
_FILE = "smoothing.json"
# Passes of a few rows: enough predictions for a mean entropy of two digits.
_PASSES, _ROWS = 8, 4


def smoothing_teacher(job: Job, folder: RunFolder, marker: Teacher) -> SmoothingTeacher:
    """As uncertain as the marker is on the text, at the loss's temperature; measured once a run, and kept in its folder.

    Labels on disk stand for the teacher, and the student's average for the student it has become.
    """
    temperature = 1.0 if isinstance(job.measure, TranslatedLoss) else job.measure.temperature
    if not (folder.path / _FILE).exists():
        entropy = _mean_entropy(_asked(job, folder, marker), job, temperature)
        share = smoothing_of_entropy(entropy, job.teacher.num_tokens)
        folder.keep_json(_FILE, {"entropy": entropy, "share": share, "temperature": temperature})
    PartialState().wait_for_everyone()
    share = folder.read_as(_FILE, lambda found: float(found["share"]))
    return SmoothingTeacher(job.teacher.num_tokens, share, temperature)


def _asked(job: Job, folder: RunFolder, marker: Teacher) -> Teacher:
    if job.average is not None:
        student = load_model(folder.of_arm(STUDENT) / "student")
        return LiveTeacher(on_this_device(student), size=job.teacher.num_tokens)
    if is_stored(marker):
        on_this_device(job.teacher.model)
        return job.teacher
    return marker


def _mean_entropy(teacher: Teacher, job: Job, temperature: float) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in islice(job.batches.from_step(0), _PASSES):
            found = entropies(over_students_tokens(teacher.label(batch.rows(0, _ROWS).to(this_device()))), temperature)
            total, count = total + float(found.double().sum()), count + len(found)
    return total / max(count, 1)
