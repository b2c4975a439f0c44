"""Before a run: is its teacher worth hearing on this text? A student of labels alone learns for a short while, and is measured beside it.

On the documents for choices on the way (the split `search`), never on those that scores are made on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from accelerate import PartialState
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.evaluation import Measurement, measure, score
from potstill.losses import HARD_LABELS
from potstill.models import on_this_device
from potstill.runs.events import ArmStep, Event, Judged, Measured, Stage
from potstill.runs.folder import GATE, RunFolder
from potstill.runs.job import Arm, Gate, Job
from potstill.runs.worth import Worth, expected_gain, worth_of
from potstill.training import Annealing, train

HALF, WHOLE = "first_look", "second_look"


def gated(job: Job, folder: RunFolder) -> Generator[Event, None, Job]:
    """The job as the gate leaves it: as it was, or with a teacher whose share goes to 0. Asked once a run, and kept in its folder.

    Raises ModelError where the gate refuses a teacher that labels alone pass already.
    """
    gate = job.gate
    if gate is None:
        return job
    if not (folder.path / GATE).exists():
        yield Stage("asking whether the teacher is worth hearing on this text")
        worth = yield from _looked(job, gate)
        folder.keep_json(GATE, worth.to_json())
    PartialState().wait_for_everyone()
    worth = folder.read_as(GATE, Worth.from_json)
    annealed = gate.then == "anneal" and worth.verdict != "worth" and job.annealing is None
    yield Judged(worth, annealed)
    if gate.then == "refuse" and worth.verdict == "not":
        raise ModelError(
            f"after {gate.steps:,} of {job.settings.steps:,} steps a student of labels alone knows this text better than the teacher "
            f"({worth.labels.value:.3f} against {worth.teacher.value:.3f} nats a prediction): let the share of the teacher fall "
            "([loss.annealing]), let it learn the text first ([teacher.correction]), learn from labels alone (loss.alpha = 0), or "
            'leave the gate open (teacher.gate.then = "warn")'
        )
    return replace(job, annealing=Annealing()) if annealed else job


def _looked(job: Job, gate: Gate) -> Generator[Event, None, Worth]:
    """Two students of labels alone, one half as long as the other, and the teacher."""
    found: dict[str, Measurement] = {}
    for name, steps in ((HALF, max(1, gate.steps // 2)), (WHOLE, gate.steps)):
        student = job.new_student()
        yield from _learned(job, Arm(name, HARD_LABELS, steps), student)
        found[name] = _measured(job, gate, student)
        yield Measured(name, found[name])
    teacher = _measured(job, gate, on_this_device(job.teacher.model))
    worth = worth_of(teacher, found[WHOLE])
    half, whole = (score(found[name], worth.metric).value for name in (HALF, WHOLE))
    return replace(worth, coming=expected_gain(half, whole, gate.steps, job.settings.steps))


def _learned(job: Job, arm: Arm, student: PreTrainedModel) -> Iterator[Event]:
    settings = replace(job.settings, steps=arm.steps, checkpoint_every=None)
    for step in train(student, job.teacher, job.batches, arm.measure, settings):
        yield ArmStep(arm, step)


def _measured(job: Job, gate: Gate, model: PreTrainedModel) -> Measurement:
    size, dtype = job.teacher.num_tokens, job.settings.dtype
    return measure(on_this_device(model), gate.text, length=job.length, size=size, dtype=dtype, masking=job.masking)
