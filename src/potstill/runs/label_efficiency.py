"""Students on several sizes of one text, by soft labels, by hard ones and by controls: every training of the learning curves.

The parts of the text are whole documents, each part in all larger ones. A seed decides their order, the order of reading, and where a
fresh student begins; students of one seed and size differ in their labels alone. Nothing is trained twice: each has its measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from potstill.data import TextBatches, TokenCorpus, place_of
from potstill.errors import DataError, RunDirectoryError
from potstill.evaluation import LabelInformation, LearningCurve, Measurement, label_information
from potstill.losses import HARD_LABELS, ForwardKL, SoftLabelLoss
from potstill.models import on_this_device
from potstill.runs.events import ArmStep, Event, Measured, Stage
from potstill.runs.folder import RunFolder, line_of
from potstill.runs.job import Arm, Job
from potstill.runs.measuring import measured_on_held_out
from potstill.runs.smoothing import smoothing_teacher
from potstill.students import merge_lora_
from potstill.teachers import ArgmaxTeacher, PartTeacher, PermutedTeacher, RememberingTeacher, stored_among
from potstill.training import newest_step, train
from potstill.types import Teacher

Control = Literal["argmax", "smoothed", "permuted"]
CONTROLS: tuple[Control, ...] = get_args(Control)
SOFT, HARD = "soft", "hard"
_GRID = "grid.json"
_LEAST_FILLED = 0.7


@dataclass(frozen=True)
class Efficiency:
    """What is to be learned how often.

    job          a distillation; its text is the largest part, its measure that of soft labels
    new_student  the untouched student of a seed
    steps_of     optimizer steps over a text, by how many it takes to read it once
    sizes        how many parts; each is `factor` times as large as the one before
    largest      tokens (of a classifier: texts) of the largest part; None: all there are
    seeds        how many students of each kind and size
    controls     labels that lack something of the teacher's
    everywhere   controls at every size, not at the largest alone
    """

    job: Job
    new_student: Callable[[int], PreTrainedModel]
    steps_of: Callable[[float], int]
    sizes: int = 5
    factor: float = 2.0
    largest: int | None = None
    seeds: int = 3
    controls: tuple[Control, ...] = CONTROLS
    everywhere: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the text, for one seed: `documents` are their numbers in the whole, `tokens` what is learned from."""

    size: int
    seed: int
    documents: NDArray[np.int64]
    batches: TextBatches
    tokens: int
    steps: int


def parts_of(wanted: Efficiency) -> list[list[Part]]:
    """[sizes][seeds], the smallest first. DataError where there is too little text for so many sizes."""
    if wanted.sizes < 2 or wanted.factor <= 1:
        raise DataError(f"a curve needs two sizes or more, each larger than the one before, found {wanted.sizes}")
    by_seed = [_parts_of_seed(wanted, seed) for seed in range(wanted.seeds)]
    return [[parts[size] for parts in by_seed] for size in range(wanted.sizes)]


def trainings_of(wanted: Efficiency) -> Iterator[tuple[str, int]]:
    """(labels, size) of all that is to be trained with each seed, what is worth most first."""
    for size in reversed(range(wanted.sizes)):
        yield SOFT, size
        yield HARD, size
    for control in wanted.controls:
        for size in reversed(range(wanted.sizes)) if wanted.everywhere else (wanted.sizes - 1,):
            yield control, size


def learn_curves(wanted: Efficiency, folder: RunFolder) -> Iterator[Event]:
    """Train and measure everything that the folder has not, the teacher first. Raises what training, measuring and writing raise, and
    RunDirectoryError for a folder of other sizes."""
    _check_is_same_grid(wanted, folder)
    parts, job = parts_of(wanted), wanted.job
    on_this_device(job.teacher.model)
    beside = RememberingTeacher(job.teacher)
    if (of_teacher := folder.measurement("teacher")) is None:
        yield Stage("measuring: teacher")
        of_teacher = measured_on_held_out(job, job.teacher.model, None)
        folder.keep_measurement("teacher", of_teacher)
    yield Measured("teacher", of_teacher)
    for seed in range(wanted.seeds):
        for labels, size in trainings_of(wanted):
            yield from _cell(wanted, folder, parts[size][seed], labels, beside)
    if not _information_file(folder, "teacher").exists():
        yield Stage("what the labels hold")
        _keep_information(folder, "teacher", _information(job, beside, None))


def curves_of(wanted: Efficiency, folder: RunFolder) -> dict[str, LearningCurve]:
    """The curves of all labels; of controls that were trained at the largest size alone, one point."""
    parts = parts_of(wanted)
    found = {}
    for labels in (SOFT, HARD, *wanted.controls):
        sizes = [size for kind, size in trainings_of(wanted) if kind == labels]
        rows = [parts[size] for size in sorted(sizes)]
        found[labels] = LearningCurve(
            [[part.tokens for part in row] for row in rows],
            [[_kept(folder.measurement(name_of(labels, part)), labels) for part in row] for row in rows],
        )
    return found


def information_of(wanted: Efficiency, folder: RunFolder) -> tuple[LabelInformation, list[list[LabelInformation]]]:
    """(of the teacher alone, [sizes][seeds] of it beside the students of soft labels)."""
    beside = [
        [LabelInformation.load(_information_file(folder, name_of(SOFT, part))) for part in row]
        for row in parts_of(wanted)
    ]
    return LabelInformation.load(_information_file(folder, "teacher")), beside


def name_of(labels: str, part: Part) -> str:
    """What a training is called in the folder."""
    return f"{labels}-size{part.size + 1}-seed{part.seed}"


def _parts_of_seed(wanted: Efficiency, seed: int) -> list[Part]:
    job, corpus = wanted.job, wanted.job.batches.corpus
    order = np.array(sorted(range(len(corpus)), key=lambda d: place_of(f"{seed} {corpus.keys[d]}")))
    weight = _weights(corpus)
    largest, part, parts, so_far = min(int(weight.sum()), wanted.largest or int(weight.sum())), set(), [], 0
    for size in range(wanted.sizes):
        target, before = largest / wanted.factor ** (wanted.sizes - 1 - size), so_far
        for document in order:
            # A document that is too long for this size waits for a larger one.
            if document not in part and so_far + weight[document] <= target:
                part.add(document)
                so_far += int(weight[document])
        if so_far <= before or so_far < _LEAST_FILLED * target:
            raise DataError(
                f"{len(corpus):,} documents don't make {wanted.sizes} parts of whole documents, each {wanted.factor:g} times as large as "
                f"the one before: of the {target:,.0f} of size {size + 1} there are {so_far:,}. Use more text, shorter documents, or fewer "
                "sizes"
            )
        documents = np.array(sorted(part))
        batches = replace(job.batches, corpus=corpus.select(documents), seed=job.settings.seed + seed)
        steps = wanted.steps_of(batches.steps_per_epoch)
        parts.append(Part(size, seed, documents, batches, batches.report.counted_tokens, steps))
    return parts


def _weights(corpus: TokenCorpus) -> NDArray[np.int64]:
    """What there is to learn from in each document: tokens, or the text itself where it has a class."""
    if len(corpus) and (corpus.labels >= 0).all():
        return np.ones(len(corpus), dtype=np.int64)
    counted = np.concatenate([[0], np.cumsum(corpus.weights > 0)])
    return np.diff(counted[corpus.offsets])


def _cell(
    wanted: Efficiency, folder: RunFolder, part: Part, labels: str, beside: RememberingTeacher
) -> Iterator[Event]:
    """One training and its measurement, from where it is."""
    name, job = name_of(labels, part), wanted.job
    found = folder.measurement(name)
    is_told = labels != SOFT or _information_file(folder, name).exists()
    if found is None or not is_told:
        checkpoints, arm = folder.of_arm(name) / "checkpoints", Arm(name, _measure_of(labels, job), part.steps)
        student = wanted.new_student(part.seed)
        marker = PartTeacher(_marker_of(labels, job, folder, part.seed), torch.from_numpy(part.documents))
        settings = replace(job.settings, steps=part.steps, seed=job.settings.seed + part.seed)
        with folder.logging_steps(name, newest_step(checkpoints)) as log:
            for step in train(student, marker, part.batches, arm.measure, settings, folder=checkpoints):
                log.write(line_of(step))
                log.flush()
                yield ArmStep(arm, step)
        student = on_this_device(merge_lora_(student))
        if not is_told:
            _keep_information(folder, name, _information(job, beside, student))
        found = measured_on_held_out(job, student, beside)
        folder.keep_measurement(name, found)
    folder.forget_checkpoints(name)
    yield Measured(name, found)


def _marker_of(labels: str, job: Job, folder: RunFolder, seed: int) -> Teacher:
    """Who marks the whole text for students of these labels. Controls ask a live teacher where the labels are stored."""
    assert isinstance(job.measure, SoftLabelLoss)
    asked = job.teacher if stored_among(job.marker) else job.marker
    match labels:
        case "argmax":
            return ArgmaxTeacher(asked)
        case "permuted":
            return PermutedTeacher(asked, seed, job.measure.temperature)
        case "smoothed":
            return smoothing_teacher(job, folder, job.marker)
        case _:
            return job.marker


def _measure_of(labels: str, job: Job) -> SoftLabelLoss:
    """Forward KL for controls: it is finite for a hard label too. A hard label has no temperature."""
    assert isinstance(job.measure, SoftLabelLoss)
    match labels:
        case "soft":
            return job.measure
        case "hard":
            return HARD_LABELS
        case "argmax":
            return replace(job.measure, divergence=ForwardKL(), temperature=1.0)
        case _:
            return replace(job.measure, divergence=ForwardKL())


def _information(job: Job, teacher: Teacher, student: PreTrainedModel | None) -> LabelInformation:
    return label_information(
        teacher,
        job.held_out,
        like=job.teacher.model,
        student=student,
        length=job.length,
        dtype=job.settings.dtype,
        masking=job.masking,
    )


def _information_file(folder: RunFolder, name: str) -> Path:
    return folder.path / "information" / f"{name}.npz"


def _keep_information(folder: RunFolder, name: str, found: LabelInformation) -> None:
    if folder.is_written_here:
        _information_file(folder, name).parent.mkdir(exist_ok=True)
        found.save(_information_file(folder, name))


def _check_is_same_grid(wanted: Efficiency, folder: RunFolder) -> None:
    """More seeds and controls may come to what is there; other sizes would be other trainings under the same names."""
    grid: dict[str, object] = {"sizes": wanted.sizes, "factor": wanted.factor, "tokens": wanted.largest}
    if (folder.path / _GRID).exists() and (found := folder.read_json(_GRID)) != grid:
        raise RunDirectoryError(
            f"{folder.path} has curves of other sizes ({_in_words(found)}) than are asked for ({_in_words(grid)}): choose another folder "
            "(--out), or delete that one"
        )
    folder.keep_json(_GRID, grid)


def _in_words(grid: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in grid.items())


def _kept(found: Measurement | None, name: str) -> Measurement:
    if found is None:
        raise RunDirectoryError(f"a measurement of {name} is missing: run the same command again")
    return found
