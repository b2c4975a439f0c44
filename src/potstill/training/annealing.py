"""The teacher's share of the loss over a run, and what a step learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from potstill.errors import LossError
from potstill.losses import Measure
from potstill.training.features import Features
from potstill.types import Teacher

M = TypeVar("M", bound=Measure)


@dataclass(frozen=True)
class Annealing:
    """The share α of the soft labels goes straight from the loss's own to `to`, over the share `over` of the steps, and stays there.

    Teacher annealing of Clark et al. 2019, arXiv:1907.04829: a student that ends on the labels can pass its teacher. There the targets are
    mixed, here the losses are: under forward KL at temperature 1 both have one gradient.
    """

    to: float = 0.0
    over: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.to <= 1.0:
            raise LossError(f"annealing.to is a share of the soft labels, between 0 and 1, found {self.to}")
        if not 0.0 < self.over <= 1.0:
            raise LossError(f"annealing.over is a share of the steps, above 0 and at most 1, found {self.over}")

    def alpha(self, start: float, index: int, steps: int) -> float:
        """Of step `index` (from 0) of `steps`, a function of these alone: `start` in the first, `to` in the last that changes it."""
        last = math.ceil(round(self.over * steps, 9)) - 1  # 0.1 of 30 is 3, and a little more in floats
        return self.to if index >= last else start + (self.to - start) * (index / last)


@dataclass(frozen=True)
class Measures(Generic[M]):
    """The loss of each step of a run, and what is true of all of them."""

    first: M
    annealing: Annealing | None
    steps: int

    def of_step(self, index: int) -> M:
        """Of the step `index`, from 0."""
        if self.annealing is None:
            return self.first
        return replace(self.first, alpha=self.annealing.alpha(self.first.alpha, index, self.steps))

    @property
    def ends(self) -> tuple[M, M]:
        """The first and the last: alpha goes one way, so all others lie between them."""
        return self.of_step(0), self.of_step(self.steps - 1)

    @property
    def need_teacher(self) -> bool:
        """Whether any step asks one."""
        return any(measure.needs_teacher for measure in self.ends)

    @property
    def least(self) -> M:
        """The one that hears least of the teacher."""
        return min(self.ends, key=lambda measure: measure.alpha)


def measures_of(measure: M, annealing: Annealing | None, steps: int, *, compiled: bool = False) -> Measures[M]:
    """The losses of a run. LossError where they are to be compiled and change."""
    if annealing is not None and compiled:
        raise LossError(
            "a compiled loss is made for one alpha, and annealing changes it: leave compile_loss or annealing out"
        )
    return Measures(measure, annealing, steps)


@dataclass(frozen=True)
class Marks:
    """What a step learns from: its loss over labels, who may be asked for soft ones, and what is compared beside labels."""

    measure: Measure
    teacher: Teacher | None
    features: Features | None

    @property
    def asked(self) -> Teacher | None:
        """The teacher, where this step looks at what it says."""
        return self.teacher if self.measure.needs_teacher or self.features is not None else None
