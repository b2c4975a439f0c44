"""The student learns on what it writes itself (on-policy distillation).

Text that others wrote never shows a student its own mistakes, and what to do after them. Here it goes on from prompts by itself, and
the teacher says at each token what it would have said: generalized knowledge distillation, Agarwal et al. 2023, arXiv:2306.13649. The
gradient is that of the divergence at the positions that came up; that other weights would have written other text is left out of it,
as there (algorithm 1).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data import PackedBatches, Prompts
from potstill.data.rows import padded_rows, shuffled
from potstill.errors import LossError, ModelError, RunDirectoryError
from potstill.losses import Measure
from potstill.models import Companion, Sampling, complete, task_of
from potstill.models.generating import held_in
from potstill.teachers import LiveTeacher, stored_among
from potstill.training.sharding import Sharding
from potstill.types import Batch, Teacher

# Prompts that are gone on from at once: enough to fill a small device, little memory for the cache.
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class OnPolicy:
    """Which steps read text of the student's own, and how it writes it. Every step is known from its number alone; the text is not.

    corpus         what the other steps read
    prompts        what the student goes on from, shuffled anew each time all have been used
    ends           tokens that end a text
    share          of the steps, spread evenly, that read the student's own text: λ of GKD; 0 = none
    rows           completions a step
    new_tokens     of a completion, at most
    refresh_every  steps that learn from text written at one time
    teacher_share  each token is drawn from teacher_share · p_T + (1 - teacher_share) · q_S (teacher-mixed sampling of MiniLLM, Gu et
                   al. 2023, arXiv:2306.08543). No importance weights: the divergence at the positions of this text is what is
                   learned, exactly; which positions come up is a choice, as λ is.
    """

    corpus: PackedBatches
    prompts: Prompts
    ends: tuple[int, ...]
    share: float = 1.0
    rows: int = 16
    new_tokens: int = 96
    refresh_every: int = 4
    sampling: Sampling = field(default_factory=Sampling)
    teacher_share: float = 0.0
    seed: int = 0

    def num_written(self, step: int) -> int:
        """How many of the steps before this one read the student's own text."""
        share = Fraction(self.share).limit_denominator(10_000)  # exact, so that no rounding moves a step
        return step * share.numerator // share.denominator

    def is_written(self, step: int) -> bool:
        """Whether this step does."""
        return self.num_written(step + 1) > self.num_written(step)

    @property
    def tokens_per_step(self) -> float:
        """Tokens read in a step, on average, if every completion has the length it may have."""
        written = self.rows * (float(self.prompts.sizes.mean()) + self.new_tokens - 1)
        return self.share * written + (1 - self.share) * self.corpus.rows * self.corpus.length


@dataclass(frozen=True)
class Written:
    """What a step's text of the student's own was.

    tokens   written by the student, ends included
    length   their mean number a completion
    ended    share of the completions that came to an end by themselves
    seconds  that writing took in this step; 0 where the text had been written before
    """

    tokens: int
    length: float
    ended: float
    seconds: float


class StudentText:
    """The student's text of now: written when a step asks for it and none is left, by the student as it then is.

    A step must be asked for after the one before has been learned. With several processes each writes a share of the completions, and
    then all have all of them.
    """

    def __init__(
        self,
        plan: OnPolicy,
        student: PreTrainedModel,
        teacher: Teacher,
        *,
        dtype: torch.dtype,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`kept`: the state of the run that is gone on with. A `dtype` of fewer bits than float32 is what the student writes in."""
        self.plan, self.student, self.teacher, self.dtype = plan, student, teacher, dtype
        self._refresh, self._seconds = -1, 0.0
        self._completions: list[NDArray[np.int64]] = []
        if kept is not None and len(sizes := kept["sizes"]):
            if len(sizes) != plan.rows * plan.refresh_every:
                raise RunDirectoryError(
                    f"the checkpoint has {len(sizes):,} completions and this run writes {plan.rows} x {plan.refresh_every} at a time: give "
                    "it a folder of its own"
                )
            self._refresh = int(kept["refresh"])
            self._completions = [one.numpy() for one in kept["tokens"].split(sizes.tolist())]

    def state(self) -> dict[str, Tensor]:
        """The text, for a checkpoint: the student that wrote it is gone."""
        whole = np.concatenate([*self._completions, np.zeros(0, np.int64)])
        sizes = torch.tensor([len(one) for one in self._completions], dtype=torch.int64)
        return {"refresh": torch.tensor(self._refresh), "tokens": torch.from_numpy(whole), "sizes": sizes}

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches of step, step + 1, ..., each made when it is asked for."""
        corpus = self.plan.corpus.from_step(step - self.plan.num_written(step))
        while True:
            yield self._batch(self.plan.num_written(step)) if self.plan.is_written(step) else next(corpus)
            step += 1

    def of_step(self, step: int) -> Written | None:
        """What this step, the last that was asked for, read of the student's own; None where it read the corpus."""
        if not self.plan.is_written(step):
            return None
        completions = self._of(self.plan.num_written(step))
        tokens = sum(len(one) for one in completions)
        ended = sum(int(one[-1]) in self.plan.ends for one in completions)
        seconds, self._seconds = self._seconds, 0.0
        return Written(tokens, tokens / len(completions), ended / len(completions), seconds)

    def _of(self, number: int) -> list[NDArray[np.int64]]:
        place = number % self.plan.refresh_every * self.plan.rows
        return self._completions[place : place + self.plan.rows]

    def _batch(self, number: int) -> Batch:
        """Of the number-th step that reads what the student wrote: prompts weigh nothing, each token it wrote weighs 1."""
        refresh = number // self.plan.refresh_every
        if refresh != self._refresh:
            started = time.perf_counter()
            self._completions, self._refresh = self._write(refresh), refresh
            self._seconds = time.perf_counter() - started
        first = number * self.plan.rows
        numbers = [self._prompt(one) for one in range(first, first + self.plan.rows)]
        prompts = [self.plan.prompts[one] for one in numbers]
        whole = [np.concatenate(pair) for pair in zip(prompts, self._of(number), strict=True)]
        weights = [
            (np.arange(1, len(text)) >= len(prompt)).astype(np.float32)
            for text, prompt in zip(whole, prompts, strict=True)
        ]
        documents = [int(self.plan.prompts.documents[one]) for one in numbers]
        read, targets = [one[:-1] for one in whole], [one[1:] for one in whole]
        return padded_rows(read, targets, weights, documents, [0] * len(whole))

    def _prompt(self, number: int) -> int:
        """Which is the number-th prompt of the run."""
        epoch, place = divmod(number, len(self.plan.prompts))
        return int(shuffled(self.plan.seed, epoch, len(self.plan.prompts))[place])

    def _write(self, refresh: int) -> list[NDArray[np.int64]]:
        """All completions of a refresh, in order; each process writes some of them."""
        plan, processes = self.plan, PartialState()
        count = plan.rows * plan.refresh_every
        mine = list(range(processes.process_index, count, processes.num_processes))
        draws = [
            np.random.default_rng([plan.seed, 3, refresh, one]).random(plan.new_tokens, np.float32) for one in mine
        ]
        companion = None
        if plan.teacher_share:
            assert isinstance(self.teacher, LiveTeacher)
            companion = Companion(self.teacher.model, plan.teacher_share)
        writer = self.student if self.dtype == torch.float32 else held_in(self.student, self.dtype)
        written = complete(
            writer,
            [plan.prompts[self._prompt(refresh * count + one)] for one in mine],
            np.stack(draws) if mine else np.zeros((0, plan.new_tokens), np.float32),
            sampling=plan.sampling,
            ends=plan.ends,
            size=self.teacher.num_tokens,
            rows=_ROWS_AT_ONCE,
            companion=companion,
        )
        everyone = dict(gather_object(list(zip(mine, written, strict=True))))
        return [everyone[one] for one in range(count)]


def begin_writing(
    plan: OnPolicy,
    student: PreTrainedModel,
    teacher: Teacher | None,
    measure: Measure,
    sharding: Sharding | None,
    *,
    dtype: torch.dtype,
    kept: Mapping[str, Tensor] | None,
) -> StudentText:
    """The student's text. Raises ModelError or LossError where it can't write, or nobody can mark what it writes."""
    if task_of(student) != "causal":
        raise ModelError(
            f"{type(student).__name__} doesn't write: on-policy distillation needs a causal language model as student"
        )
    if teacher is None or measure.alpha < 1:
        raise LossError(
            f"alpha is {measure.alpha:g}, and what the student wrote is no label to learn: set alpha = 1, the teacher's labels alone"
        )
    if stored_among(teacher):
        raise ModelError(
            "stored labels are of the corpus and can't mark what the student writes: the teacher must be live"
        )
    if plan.teacher_share and not isinstance(teacher, LiveTeacher):
        raise ModelError(f"a {type(teacher).__name__} can't write along: set teacher_share = 0, or use a live teacher")
    if plan.teacher_share and plan.sampling.temperature == 0:
        raise ModelError("temperature = 0 draws nothing, so the teacher has no share in it: set teacher_share = 0")
    if sharding is not None:
        raise ModelError(
            "a student whose weights are divided among processes (FSDP2) can't write: give each process all of them (DDP, as in "
            "recipes/accelerate/ddp.yaml)"
        )
    return StudentText(plan, student, teacher, dtype=dtype, kept=kept)
