"""The students of a run of runs side by side: all on the same held-out text, beside the same teacher, and those who marked together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from potstill.evaluation import Measurement, measure_teacher
from potstill.models import head_of, load_model, on_this_device, task_of, this_device
from potstill.runs.events import Event, Measured, Stage
from potstill.runs.folder import RunFolder
from potstill.runs.job import Job
from potstill.runs.measuring import measured_on_held_out
from potstill.teachers import LiveTeacher, MixtureTeacher, RememberingTeacher


@dataclass(frozen=True)
class Together:
    """Models who marked together: where they lie, their weights, what of them was averaged."""

    paths: tuple[Path, ...]
    weights: tuple[float, ...]
    of: Literal["probabilities", "logits"] = "probabilities"


def measure_stages(
    job: Job, folder: RunFolder, students: Mapping[str, Path], together: Mapping[str, Together]
) -> Iterator[Event]:
    """Measure the job's teacher, each student by name, and each mixture of them; a measurement each, taken from the folder where it is
    there. Nothing is trained. The names are those of the rows to come."""
    beside = RememberingTeacher(job.teacher)

    def kept(name: str, make: Callable[[], Measurement]) -> Iterator[Event]:
        found = folder.measurement(name)
        if found is None:
            yield Stage(f"measuring: {name}")
            on_this_device(job.teacher.model)
            found = make()
            folder.keep_measurement(name, found)
        yield Measured(name, found)

    yield from kept("teacher", lambda: _measured(job, None, None))
    for name, path in students.items():
        yield from kept(name, lambda path=path: _measured(job, path, beside))
    if task_of(job.teacher.model) == "causal":
        for name, mixture in together.items():
            yield from kept(name, lambda mixture=mixture: _measured_together(job, mixture, beside))


def _measured(job: Job, path: Path | None, beside: RememberingTeacher | None) -> Measurement:
    return measured_on_held_out(job, job.teacher.model if path is None else load_model(path), beside)


def _measured_together(job: Job, mixture: Together, beside: RememberingTeacher) -> Measurement:
    models = [on_this_device(load_model(path)) for path in mixture.paths]
    size = job.teacher.num_tokens
    teachers = tuple(LiveTeacher(model, size=min(size, head_of(model).num_tokens)) for model in models)
    return measure_teacher(
        MixtureTeacher(teachers, mixture.weights, mixture.of),
        job.held_out,
        length=job.length,
        teacher=beside,
        device=this_device(),
        dtype=job.settings.dtype,
    )
