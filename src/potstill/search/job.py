"""What is searched, as objects: nothing here knows recipes or the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from potstill.data import TextBatches, TokenCorpus
from potstill.evaluation import HarnessTask, Questions
from potstill.losses import SoftLabelLoss
from potstill.search.bar import Bar
from potstill.search.kept import Facts
from potstill.search.ladder import CUTS, SHARES, Cut, Limits
from potstill.soft_labels import Manifest
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings

# Shares of the whole training after which a candidate is looked at, by rung; the first has two looks, so that a curve can be drawn.
Rungs = tuple[tuple[float, ...], ...]
_LONG: Rungs = ((1 / 16, 1 / 8), (1 / 4,), (1 / 2,), (1.0,))
_SHORT: Rungs = ((1 / 8, 1 / 4), (1 / 2,), (1.0,))
# Learning curves are no curves before so many steps, and order changes (benchmarks/search.md; Muralidharan et al. 2024: some 300).
_FIRST_LOOK = 100
# Of the steps up to a look, those in which the learning rate falls.
DECAY = 0.2


def rungs_of(steps: int) -> Rungs:
    """The looks at a training of so many steps: the first not before a hundred, where that can be."""
    return _LONG if steps * _LONG[0][0] >= _FIRST_LOOK else _SHORT


@dataclass(frozen=True)
class Texts:
    """Documents, by what they are for: learned from, chosen by, judged by; and what is looked at for importance."""

    learn: TokenCorpus
    search: TokenCorpus
    held_out: TokenCorpus
    looked_at: TokenCorpus


@dataclass(frozen=True)
class LadderWanted:
    """Which sizes and cuts there are to choose among, and how many cuts of a size go beyond the first look, untrained."""

    shares: tuple[float, ...] = SHARES
    cuts: tuple[Cut, ...] = CUTS
    limits: Limits | None = None
    screened: int = 3


@dataclass(frozen=True)
class SearchJob:
    """A search for the smallest student.

    bars         what it must reach, all of them; none: the best within the limits
    questions    by name, those that bars speak of: to choose by, and to judge by
    settings     of the whole training of one candidate; the schedule is the search's own
    looks        how many candidates may be judged on held-out text
    until_flat   a candidate that has stopped improving has learned all it may
    recipe       what all this was decoded from, as text; written beside the results
    price_per_hour  of this machine, for the report
    made_from    by step (teacher, judging, labels, importance, candidates), the facts it was made from
    """

    teacher: LiveTeacher
    source: str
    tokenizer: PreTrainedTokenizerBase
    texts: Texts
    batches: TextBatches
    bars: tuple[Bar, ...]
    questions: Mapping[str, tuple[Questions, Questions] | tuple[HarnessTask, HarnessTask]]
    ladder: LadderWanted
    manifest: Manifest
    measure: SoftLabelLoss
    settings: TrainingSettings
    length: int
    made_from: Mapping[str, Facts]
    recipe: str = ""
    looks: int = 3
    control: bool = True
    int4: bool = True
    speed: bool = True
    until_flat: bool = False
    price_per_hour: float | None = None
