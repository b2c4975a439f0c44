"""A job from beginning to end: models measured, arms trained, in the order a person wants to see them.

Everything done is in the folder before the next thing begins, and is taken from there the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace

from accelerate import PartialState
from transformers import PreTrainedModel

from potstill.evaluation import Measurement, measure, speed
from potstill.export import learning_through_, rounded, save_packed
from potstill.losses import HARD_LABELS, ForwardKL
from potstill.models import load_model, on_this_device, save_model, size_of
from potstill.runs.events import ArmStep, Event, Finished, Measured, Stage
from potstill.runs.folder import FOUR_BITS, SPEEDS, STUDENT, RunFolder, line_of
from potstill.runs.gate import gated
from potstill.runs.job import Arm, Job
from potstill.runs.scores import IN_WORDS
from potstill.runs.smoothing import SMOOTHED, smoothing_teacher
from potstill.runs.tracking import tracking
from potstill.runs.worth import Worth, worth_of
from potstill.students import merge_lora_
from potstill.teachers import AveragedTeacher, LiveTeacher, MixtureTeacher, RememberingTeacher, RoutedTeacher, is_stored
from potstill.training import Step, newest_step, train
from potstill.types import Teacher

_SAME_TIME = "same_time.json"
_PACKED = "student-int4"
CORRECTED = "corrected_teacher"


def distil(job: Job, folder: RunFolder) -> Iterator[Event]:
    """Train the distilled student and its controls, measure all of them, and end with `Finished`.

    What the folder holds already is not done again. Raises what training, measuring and writing raise; nothing that was
    finished is lost by it.
    """
    job = yield from gated(job, folder)
    if job.int4 is not None:
        folder.write_json(FOUR_BITS, {"group": job.int4})
    on_this_device(job.teacher.model)
    found: dict[str, Measurement] = {}
    beside = RememberingTeacher(job.teacher)

    def measured(name: str, model: Callable[[], PreTrainedModel]) -> Iterator[Event]:
        kept = folder.measurement(name)
        if kept is None:
            yield Stage(f"measuring: {IN_WORDS[name]}")
            on_this_device(job.teacher.model)
            kept = _measure(job, model(), name, beside)
            folder.keep_measurement(name, kept)
        found[name] = kept
        yield Measured(name, kept)

    yield from measured("teacher", lambda: job.teacher.model)
    if job.untouched:
        yield from measured("untouched", job.new_student)
    if job.int4 is not None:
        yield from measured("rounded", lambda: _as_scored(job, job.new_student()))
    with tracking(job.trackers, folder.path) as log:
        for arm in _arms(job, folder):
            if folder.measurement(arm.name) is None:
                yield from _lost(job, arm, folder)
                for step in _train(job, arm, folder):
                    log(arm, step)
                    yield ArmStep(arm, step)
            yield from measured(arm.name, lambda arm=arm: _student(job, folder, arm))
            folder.forget_checkpoints(arm.name)
    student = on_this_device(load_model(folder.of_arm(STUDENT) / "student", dtype=job.teacher.model.dtype))
    sizes = {"teacher": size_of(job.teacher.model), STUDENT: size_of(student)}
    # One process alone: those of one machine would time each other.
    if job.speed and folder.is_written_here and not (folder.path / SPEEDS).exists():
        yield Stage("timing teacher and student")
        on_this_device(job.teacher.model)
        timed = {"teacher": speed(job.teacher.model), STUDENT: speed(student)}
        folder.write_json(SPEEDS, {name: asdict(value) for name, value in timed.items()})
    PartialState().wait_for_everyone()
    yield Finished(found, sizes, folder.speeds() if job.speed else {}, _worth(job, found))


def _arms(job: Job, folder: RunFolder) -> Iterator[Arm]:
    """One after another: the length of the last is known when the others are trained."""
    steps = job.settings.steps
    if job.correction is not None:
        yield Arm(CORRECTED, HARD_LABELS, job.correction.steps)
    yield Arm(STUDENT, job.measure, steps, job.features, job.annealing)
    if job.control:
        yield Arm("hard_labels", HARD_LABELS, _steps_of_same_tokens(job, folder))
    if job.smoothing:
        smoothed = replace(job.measure, divergence=ForwardKL())
        yield Arm(SMOOTHED, smoothed, _steps_of_same_tokens(job, folder), annealing=job.annealing)
    if job.control and job.same_time:
        if not (folder.path / _SAME_TIME).exists():
            soft, hard = (seconds_a_step(folder.steps(name)) for name in (STUDENT, "hard_labels"))
            folder.keep_json(_SAME_TIME, {"steps": max(1, round(steps * soft / hard)), "seconds": steps * soft})
        PartialState().wait_for_everyone()
        yield Arm("hard_labels_same_time", HARD_LABELS, folder.read_as(_SAME_TIME, lambda found: int(found["steps"])))


def _steps_of_same_tokens(job: Job, folder: RunFolder) -> int:
    """Of a control: as many as the distilled student's, unless that read its own text, of which a step has another length."""
    if job.on_policy is None:
        return job.settings.steps
    tokens = sum(int(str(step["tokens"])) for step in folder.steps(STUDENT))
    return max(1, round(tokens / (job.batches.rows * job.length)))


def seconds_a_step(steps: Sequence[Mapping[str, object]]) -> float:
    """Of the logged steps of an arm, those of writing, which few steps have, spread over all."""
    # The first steps of a process warm up caches and allocators. The median is deaf to them, and to pauses of the machine.
    writing = [float(str(one["seconds"])) if isinstance(one := step.get("written"), dict) else 0.0 for step in steps]
    seconds = sorted(float(str(step["seconds"])) - wrote for step, wrote in zip(steps, writing, strict=True))
    return max(seconds[len(seconds) // 2] + sum(writing) / len(steps), 1e-9) if seconds else 1.0


def _train(job: Job, arm: Arm, folder: RunFolder) -> Iterator[Step]:
    """Train an arm from where it is, and save its student."""
    if _is_trained(job, folder, arm):
        return
    checkpoints = folder.of_arm(arm.name) / "checkpoints"
    is_correction = arm.name == CORRECTED
    student = deepcopy(job.teacher.model).float().requires_grad_(True) if is_correction else job.new_student()
    marker = _marker(job, folder, arm) if arm.needs_teacher else job.marker
    if is_stored(marker) or (job.correction is not None and not is_correction):  # the marker needs the room
        job.teacher.model.to("cpu")  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    settings = job.correction if is_correction and job.correction is not None else job.settings
    settings = replace(settings, steps=arm.steps)
    text = job.on_policy if arm.name == STUDENT and job.on_policy is not None else job.batches
    with folder.logging_steps(arm.name, newest_step(checkpoints)) as log:
        learning = train(
            student,
            marker,
            text,
            arm.measure,
            settings,
            folder=checkpoints,
            features=arm.features,
            annealing=arm.annealing,
        )
        with nullcontext() if is_correction or job.int4 is None else learning_through_(student, job.int4):
            for step in learning:
                log.write(line_of(step))
                log.flush()
                yield step
    if folder.is_written_here:
        save_model(merge_lora_(student), job.tokenizer, folder.of_arm(arm.name) / "student")
        if job.int4 is not None and arm.name == STUDENT:
            save_packed(student, job.tokenizer, folder.of_arm(arm.name) / _PACKED, job.int4)
    PartialState().wait_for_everyone()


def _lost(job: Job, arm: Arm, folder: RunFolder) -> Iterator[Stage]:
    """Told, where a killed run had done steps after its newest checkpoint."""
    kept = newest_step(folder.of_arm(arm.name) / "checkpoints")
    lost = sum(int(str(step["index"])) > kept for step in folder.steps(arm.name))
    if lost and not _is_trained(job, folder, arm):
        begins = f"goes on after step {kept:,}" if kept else "begins again"
        yield Stage(
            f"{IN_WORDS[arm.name]}: {begins}; steps that no checkpoint has, and that are done again: {lost:,} "
            f"(training.checkpoint_every = {job.settings.checkpoint_every})"
        )


def _marker(job: Job, folder: RunFolder, arm: Arm) -> Teacher:
    """Who marks for this arm: the corrected teacher or the student's average, where there is one."""
    if arm.name == SMOOTHED:
        return smoothing_teacher(job, folder, _marker(job, folder, replace(arm, name=STUDENT)))
    if job.average is not None:
        return AveragedTeacher(job.new_student(), size=job.teacher.num_tokens, decay=job.average)
    if job.correction is None:
        return job.marker
    corrected = load_model(folder.of_arm(CORRECTED) / "student", dtype=job.teacher.model.dtype)
    layers, attention = ((), ()) if (found := job.features) is None else (found.teacher_layers, found.teacher_attention)
    return LiveTeacher(on_this_device(corrected), size=job.teacher.num_tokens, layers=layers, attention=attention)


def _worth(job: Job, found: Mapping[str, Measurement]) -> Worth | None:
    """Of the one teacher who marked, beside the control; None where several marked, or the student's own past, or there is no control."""
    if "hard_labels" not in found or job.average is not None or isinstance(job.marker, MixtureTeacher | RoutedTeacher):
        return None
    teacher = found.get(CORRECTED, found["teacher"])
    return worth_of(teacher, found["hard_labels"], distilled=found[STUDENT])


def _is_trained(job: Job, folder: RunFolder, arm: Arm) -> bool:
    wanted = ("student", _PACKED) if job.int4 is not None and arm.name == STUDENT else ("student",)
    return all((folder.of_arm(arm.name) / name / "config.json").exists() for name in wanted)


def _as_scored(job: Job, model: PreTrainedModel) -> PreTrainedModel:
    """The model as it will be used: on the grid of four bits, where it learned through that."""
    return model if job.int4 is None else rounded(model, job.int4)


def _student(job: Job, folder: RunFolder, arm: Arm) -> PreTrainedModel:
    model = load_model(folder.of_arm(arm.name) / "student")
    return model if arm.name == CORRECTED else _as_scored(job, model)


def _measure(job: Job, model: PreTrainedModel, name: str, beside: RememberingTeacher) -> Measurement:
    is_teacher, is_translated = name == "teacher", job.teacher_held_out is not None
    return measure(
        on_this_device(model),
        job.teacher_held_out if is_teacher and job.teacher_held_out is not None else job.held_out,
        length=job.length,
        teacher=None if is_teacher or is_translated else beside,
        size=(job.marker if is_translated and not is_teacher else job.teacher).num_tokens,
        dtype=job.settings.dtype,
        masking=job.masking,
    )
