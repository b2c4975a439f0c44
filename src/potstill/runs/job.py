"""What a run is to do, as objects: nothing here knows recipes or the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import Masking, TextBatches, TokenCorpus
from potstill.losses import FeatureLoss, Measure
from potstill.teachers import LiveTeacher
from potstill.training import Annealing, OnPolicy, TrainingSettings
from potstill.types import Teacher


@dataclass(frozen=True)
class Gate:
    """How it is found out beforehand whether the teacher is worth hearing.

    text   what it and students of labels alone are measured on: neither learned from nor scored on at the end
    steps  that such a student learns, and another one half of them
    then   where labels know the text better, or are going to: only say so, let the teacher's share go to 0, or refuse the run
    """

    text: TokenCorpus
    steps: int
    then: Literal["warn", "anneal", "refuse"] = "warn"


@dataclass(frozen=True)
class Job:
    """A distillation with its controls.

    teacher      what all models are measured against
    marker       who marks the text that is learned from: the teacher, or its stored labels
    new_student  the untouched student, the same each time
    batches      what all arms learn from, in this order
    held_out     what all models are scored on
    length       context in tokens, of training and scoring
    control      also train on hard labels over the same tokens
    same_time    also train on hard labels for as many seconds as the distilled student took; needs the control
    untouched    also score the student as it was
    speed        also time teacher and student
    trackers     where steps are logged besides the folder
    features     what hidden states and attention add to the loss of the distilled student
    on_policy    what the distilled student writes itself to learn from, beside `batches` or instead; None: it learns from these alone
    correction   how a copy of the teacher first learns the text from hard labels, and then marks in its place; None: it doesn't
    average      the decay of the student's average, which marks in the teacher's place; None: it doesn't
    smoothing    also train on smoothed hard labels that are as uncertain as the marker
    teacher_held_out  the same text in the teacher's tokens, where these are others: then it isn't asked when students are scored
    annealing    how the teacher's share changes as the distilled student learns; None: it doesn't
    int4         learn through weights rounded to four bits, so many inputs a scale, and score them so; None: in full
    gate         how it is found out beforehand whether the teacher is worth hearing; None: it isn't asked
    masking      what is hidden of held-out text, for masked language models
    """

    teacher: LiveTeacher
    marker: Teacher
    tokenizer: PreTrainedTokenizerBase
    new_student: Callable[[], PreTrainedModel]
    batches: TextBatches
    held_out: TokenCorpus
    measure: Measure
    settings: TrainingSettings
    length: int
    control: bool = True
    same_time: bool = False
    untouched: bool = True
    speed: bool = True
    trackers: tuple[str, ...] = ()
    features: FeatureLoss | None = None
    masking: Masking | None = None
    correction: TrainingSettings | None = None
    on_policy: OnPolicy | None = None
    average: float | None = None
    smoothing: bool = False
    teacher_held_out: TokenCorpus | None = None
    annealing: Annealing | None = None
    int4: int | None = None
    gate: Gate | None = None


@dataclass(frozen=True)
class Arm:
    """One student of a run: its name in the folder, what it learns by (labels, features), for how many steps, with what share of whom."""

    name: str
    measure: Measure
    steps: int
    features: FeatureLoss | None = None
    annealing: Annealing | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether any of its steps asks who marks."""
        changes_to = 0.0 if self.annealing is None else self.annealing.to
        return self.measure.needs_teacher or changes_to > 0 or self.features is not None
