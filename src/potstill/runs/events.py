"""What a run says as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from potstill.evaluation import Measurement, Speed
from potstill.models import Size
from potstill.runs.job import Arm
from potstill.runs.worth import Worth
from potstill.training import Step


@dataclass(frozen=True)
class Stage:
    """Something that takes a while begins."""

    what: str


@dataclass(frozen=True)
class ArmStep:
    """An arm has done an optimizer step."""

    arm: Arm
    step: Step


@dataclass(frozen=True)
class Measured:
    """A model has been measured."""

    name: str
    measurement: Measurement


@dataclass(frozen=True)
class Judged:
    """The gate knows what the teacher is worth; `annealed`: so its share will go to 0."""

    worth: Worth
    annealed: bool


@dataclass(frozen=True)
class Finished:
    """All is done: measurements by model, sizes and speeds of teacher and distilled student, the teacher's worth if it can be said."""

    measurements: Mapping[str, Measurement]
    sizes: Mapping[str, Size]
    speeds: Mapping[str, Speed]
    worth: Worth | None = None


Event = Stage | ArmStep | Measured | Judged | Finished
