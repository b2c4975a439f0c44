"""What a model does on text and on questions, measured once and kept in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from potstill.data import TokenCorpus, ordered_batches
from potstill.errors import DataError
from potstill.evaluation import Measurement, answer_scores, measure
from potstill.models import on_this_device
from potstill.runs.folder import as_checked, checked
from potstill.search.bar import Evidence
from potstill.search.job import SearchJob
from potstill.teachers import RememberingTeacher

Part = Literal["search", "held_out"]


@dataclass(frozen=True)
class Observer:
    """Measures on one part of the text, beside the teacher, which says everything once."""

    job: SearchJob
    part: Part
    teacher: RememberingTeacher
    unigram: NDArray[np.float64]

    @classmethod
    def of(cls, job: SearchJob, part: Part) -> Observer:
        """For one part of the text."""
        corpus = job.texts.search if part == "search" else job.texts.held_out
        surprise = unigram_surprise(job.texts.learn, job.teacher.num_tokens)
        return cls(job, part, RememberingTeacher(job.teacher), surprise_on(surprise, corpus, job.length))

    @property
    def corpus(self) -> TokenCorpus:
        """The text that is measured on."""
        return self.job.texts.search if self.part == "search" else self.job.texts.held_out

    def evidence(self, kept: Path, model: Callable[[], PreTrainedModel], *, is_teacher: bool = False) -> Evidence:
        """Measured now, or read from `kept`, a path without ending."""
        text, answers = kept.with_suffix(".npz"), kept.with_suffix(".answers.json")
        if not text.exists() or not answers.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            found = on_this_device(model())
            scores = {
                name: answer_scores(found, self.job.tokenizer, pair[self.part == "held_out"], length=self.job.length)
                for name, pair in self.job.questions.items()
            }
            self._measure(found, is_teacher).save(text)
            part = answers.with_suffix(".part")
            part.write_text(json.dumps(checked({name: values.tolist() for name, values in scores.items()})), "utf-8")
            part.replace(answers)
        try:
            said = as_checked(answers.read_text("utf-8"))
            of_questions = {name: np.array(values, float) for name, values in said.items()}
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{answers} holds no answers ({error}): delete it and run again") from error
        return Evidence(Measurement.load(text), self.unigram, of_questions)

    def _measure(self, model: PreTrainedModel, is_teacher: bool) -> Measurement:
        job = self.job
        beside = None if is_teacher else self.teacher
        return measure(
            model, self.corpus, length=job.length, teacher=beside, size=job.teacher.num_tokens, dtype=job.settings.dtype
        )


def unigram_surprise(learn: TokenCorpus, num_tokens: int) -> NDArray[np.float64]:
    """[tokens]: nats of surprise at each token for who knows their frequencies in the text, one added to every count."""
    counts = np.bincount(learn.ids, minlength=num_tokens)[:num_tokens] + 1.0
    return -np.log(counts / counts.sum())


def surprise_on(surprise: NDArray[np.float64], corpus: TokenCorpus, length: int) -> NDArray[np.float64]:
    """[documents]: summed over the predictions that `measure` counts."""
    sums = np.zeros(len(corpus))
    for batch in ordered_batches(corpus, length=length, rows=64):
        tokens, documents = batch.targets[batch.counted].numpy(), batch.documents[batch.counted].numpy()
        np.add.at(sums, documents, surprise[tokens])
    return sums
