"""How fast things go here and now: tried, not counted."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel

from potstill.data import PackedBatches
from potstill.errors import ModelError
from potstill.evaluation import answer_scores, measure, speed
from potstill.models import head_of, on_this_device
from potstill.runs import held_out_sample
from potstill.search.job import SearchJob
from potstill.soft_labels import Store, begin_store, label
from potstill.students import Importance, Shape, cuttable_axes, prune, shape_of_share
from potstill.teachers import StoredTeacher
from potstill.training import train

_STEPS, _QUESTIONS = 4, 4


@dataclass(frozen=True)
class Rates:
    """Tokens a second: that the teacher marks, that a student of half its size learns from stored labels, that the teacher reads; and how
    many seconds its answer to a question takes."""

    marked: float
    learned: float
    read: float
    seconds_a_question: float


def rates_of(job: SearchJob) -> Rates:
    """A few steps of what the search will do, with the teacher and a student of half its size; what is made of it is thrown away."""
    model = on_this_device(job.teacher.model)
    few = held_out_sample(job.texts.learn, _STEPS * job.batches.rows * job.length, job.length)
    with TemporaryDirectory() as place:
        folder = Path(place)
        begin_store(folder, job.manifest, few, head_of(model))
        began = time.perf_counter()
        for _ in label(job.teacher, few, folder):
            pass
        marked = few.num_tokens / _since(began)
        marker = StoredTeacher(Store(folder), few, tokenizer=job.manifest.tokenizer, measure=job.measure)
        batches = PackedBatches(few, job.length, job.batches.rows)
        settings = replace(job.settings, steps=_STEPS, checkpoint_every=None)
        steps = list(train(half_of(model), marker, batches, job.measure, settings))
    # The first warms up.
    learned = statistics.median(step.tokens / step.seconds for step in steps[1:])
    began = time.perf_counter()
    measure(model, few, length=job.length, dtype=job.settings.dtype, size=job.teacher.num_tokens)
    read = few.num_tokens / _since(began)
    return Rates(marked, learned, read, _seconds_a_question(job))


def half_of(model: PreTrainedModel) -> PreTrainedModel:
    """A student of half the size, whatever it is worth."""
    axes = dict(cuttable_axes(model))
    try:
        shape = shape_of_share(model, axes, 0.5)
    except ModelError:  # what can't be narrower is cut in depth
        shape = Shape(tuple(range(max(1, model.config.num_hidden_layers // 2))))
    student, _ = prune(model, shape, Importance.unmeasured(model))
    return student.float().requires_grad_(True)


def _seconds_a_question(job: SearchJob) -> float:
    """Of all that bars ask, the mean; the teacher answers a few."""
    seconds, asked = 0.0, 0
    for chosen_by, _ in job.questions.values():
        few = replace(chosen_by, items=chosen_by.items[:_QUESTIONS])
        began = time.perf_counter()
        answer_scores(job.teacher.model, job.tokenizer, few, length=job.length)
        seconds, asked = seconds + _since(began), asked + len(few.items)
    return seconds / max(1, asked)


def _since(began: float) -> float:
    return max(1e-9, time.perf_counter() - began)


def times_as_fast(model: PreTrainedModel, shape: Shape) -> float:
    """How many times as many tokens a second a student of that shape writes, whatever its weights: the median of three turns with the
    model itself."""
    student, _ = prune(model, shape, Importance.unmeasured(model))
    turns = [(speed(model), speed(student)) for _ in range(3)]
    rates = [[one.decode_tokens_per_second or one.prefill_tokens_per_second for one in turn] for turn in turns]
    return statistics.median(student / teacher for teacher, student in rates)
