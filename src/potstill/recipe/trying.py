"""This machine tried at a recipe: its text and models are loaded, a few steps are taken and thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from potstill.recipe.build import build_batches
from potstill.recipe.job import build_job, shared_tokenizer, tokenizer_of
from potstill.recipe.labelling import labelling_by
from potstill.recipe.planning import Amounts, on_paper, predictions_of, workload_of, writing_of
from potstill.recipe.schema import Recipe
from potstill.recipe.searching import build_search
from potstill.recipe.text import Say

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from potstill.data import TextBatches, TokenCorpus
    from potstill.planning import Measured, Workload

# Documents that stand for a text that is not read whole, and tokens looked at for what matters, where only the time of it is asked.
_FEW_DOCUMENTS, _FEW_TOKENS = 400, 2_000
# Seconds that one step may take when it is tried: of longer ones fewer rows are.
_LONGEST_STEP = 4.0


def measure_here(
    recipe: Recipe, *, tokens: int | None = None, say: Say, clock: Callable[[], float] = time.perf_counter
) -> tuple[Workload, Measured]:
    """What the run will be made of, and how fast this machine is at it: text and models are loaded, a few steps are taken."""
    import potstill.reports  # noqa: F401  # every run ends with a page: what that brings in is part of starting
    from potstill.models import this_device
    from potstill.planning import memory_of_machine

    tried = _tried_search if recipe.student.kind == "search" else _tried_job
    started = time.process_time()  # of starting the process and bringing its libraries in
    with TemporaryDirectory() as place:
        work, measured = tried(recipe, Path(place) / "run", tokens, say, clock)
    before = measured.seconds_before + started
    on_accelerator = this_device().type == "cuda"
    return work, replace(measured, seconds_before=before, memory=memory_of_machine(), on_accelerator=on_accelerator)


def _tried_job(
    recipe: Recipe, out: Path, tokens: int | None, say: Say, clock: Callable[[], float]
) -> tuple[Workload, Measured]:
    from potstill.planning import Trial, try_out

    began = clock()
    tried = _lightened(recipe, tokens)
    job = build_job(tried, out, say=say).job
    student = job.new_student()
    before, process = clock() - began, _besides(job.teacher.model, student)
    amounts = Amounts(
        job.settings.steps,
        predictions_of(job.batches.corpus, recipe.training.length),
        job.held_out.num_tokens,
        0,
        _whole(recipe, job.batches.corpus.num_tokens),
        writing_of(recipe, None if job.on_policy is None else float(job.on_policy.prompts.sizes.mean())),
    )
    if tokens is not None:
        amounts = replace(on_paper(recipe, tokens), writing=amounts.writing)
    work = workload_of(recipe, job.teacher.model, student, amounts, dtype=job.settings.dtype)
    manifest = None
    if recipe.teacher.kind == "stored":
        size, tokenizer = shared_tokenizer(tried, job.teacher.model, student)
        name, corpus = recipe.teacher.model, job.batches.corpus
        manifest = labelling_by(name, job.teacher.model, tried, corpus, out / "planned", tokenizer, size).manifest
    rows = _rows_to_try(recipe, job.teacher.model, student, job.settings.dtype)
    text = job.on_policy or _with_rows(tried, rows, job.batches.corpus, job.teacher.model)
    trial = Trial(
        job.teacher,
        job.marker,
        student,
        text,
        job.batches.corpus,
        job.held_out,
        job.measure,
        replace(job.settings, micro_rows=min(rows, recipe.training.micro_rows or rows)),
        recipe.training.length,
        features=job.features,
        masking=job.masking,
        teacher_held_out=job.teacher_held_out,
        manifest=manifest,
        is_stored=manifest is not None,
        control=work.controls > 0,
        times=job.speed,
    )
    say("trying a few steps")
    return work, replace(try_out(trial, clock=clock), seconds_before=before, process=process)


def _tried_search(
    recipe: Recipe, out: Path, tokens: int | None, say: Say, clock: Callable[[], float]
) -> tuple[Workload, Measured]:
    from potstill.planning import Trial, try_out
    from potstill.search.timing import half_of as half_with_weights

    began = clock()
    tried = _lightened(recipe, tokens)
    job = build_search(tried, out, say=say).job
    student = half_with_weights(job.teacher.model)
    before, process = clock() - began, _besides(job.teacher.model, student)
    texts = job.texts
    amounts = Amounts(
        job.settings.steps,
        predictions_of(texts.learn, job.length),
        texts.held_out.num_tokens,
        texts.search.num_tokens,
        _whole(recipe, texts.learn.num_tokens),
    )
    if tokens is not None:
        amounts = on_paper(recipe, tokens)
    work = workload_of(recipe, job.teacher.model, student, amounts, dtype=job.settings.dtype)
    rows = _rows_to_try(recipe, job.teacher.model, student, job.settings.dtype)
    trial = Trial(
        job.teacher,
        job.teacher,
        student,
        _with_rows(tried, rows, texts.learn, job.teacher.model),
        texts.learn,
        texts.held_out,
        job.measure,
        replace(job.settings, micro_rows=min(rows, recipe.training.micro_rows or rows)),
        job.length,
        manifest=job.manifest,
        is_stored=True,
        control=job.control,
        times=job.speed,
    )
    say("trying a few steps")
    return work, replace(try_out(trial, clock=clock), seconds_before=before, process=process)


def _besides(*models: PreTrainedModel) -> float:
    """Bytes of memory that this process has now, without the weights of these models: libraries, and the text."""
    from potstill.models import size_of
    from potstill.planning import memory_of_process

    return max(0.0, memory_of_process() - sum(size_of(model).bytes for model in models))


def _whole(recipe: Recipe, learned: int) -> int:
    """About how many tokens the whole text has, of which so many are learned from."""
    return round(learned / (1 - recipe.data.held_out - recipe.data.search))


def _lightened(recipe: Recipe, tokens: int | None) -> Recipe:
    """The same run where only its speed is asked: the teacher is here, little is looked at, of a text on paper the beginning is read."""
    changes: dict[str, object] = {}
    teacher = recipe.teacher
    if teacher.kind == "stored":
        changes["teacher"] = teacher.model_copy(update={"kind": "live"})
    if teacher.mixture is not None and teacher.mixture.one_at_a_time:
        # All of the text would be labelled here; and teachers that label one at a time may not fit side by side.
        changes["teacher"] = teacher.model_copy(update={"mixture": None})
    if teacher.tensor_parallel:  # by one process
        changes["teacher"] = teacher.model_copy(update={"tensor_parallel": False})
    if recipe.student.kind in ("prune", "search"):
        changes["student"] = recipe.student.model_copy(update={"tokens": _FEW_TOKENS})
    if tokens is not None:
        few = min(_FEW_DOCUMENTS, recipe.data.max_documents or _FEW_DOCUMENTS)
        changes["data"] = recipe.data.model_copy(update={"max_documents": few})
    return recipe.model_copy(update=changes)


def _rows_to_try(recipe: Recipe, teacher: PreTrainedModel, student: PreTrainedModel, dtype: torch.dtype) -> int:
    """As many of a step's as are done in a few seconds."""
    from potstill.models import this_device
    from potstill.runs import estimate

    training = recipe.training
    rows = training.rows
    found = estimate(
        teacher,
        student,
        tokens=rows * training.length,
        micro_rows=rows,
        length=training.length,
        dtype=dtype,
        device=str(this_device()),
    )
    return max(1, min(rows, int(rows * _LONGEST_STEP / max(found.seconds_soft, 1e-9))))


def _with_rows(recipe: Recipe, rows: int, corpus: TokenCorpus, model: PreTrainedModel) -> TextBatches:
    from potstill.models import task_of

    training = recipe.training.model_copy(update={"rows": rows})
    return build_batches(training, task_of(model), tokenizer_of(recipe), corpus)
