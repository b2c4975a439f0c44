"""What soft labels are worth, from the measurements of all trainings: curves, multipliers, what controls leave, what the labels hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from potstill.evaluation import (
    QUALITIES,
    LabelInformation,
    LearningCurve,
    Multiplier,
    differences,
    multipliers,
    score,
    scores_of_curve,
)
from potstill.runs.folder import RunFolder
from potstill.runs.label_efficiency import HARD, SOFT, Efficiency, curves_of, information_of, parts_of
from potstill.types import Score

# A gradient from hard labels that is off by a tenth of its length.
GRADIENT_ERROR = 0.1
HELD = ("entropy_bits", "nll_bits", "gap_bits", "noise")

# What each kind of labels is called.
LABELS_IN_WORDS: Mapping[str, str] = {
    "soft": "soft labels",
    "hard": "hard labels",
    "argmax": "teacher's argmax",
    "smoothed": "smoothed, as uncertain",
    "permuted": "permuted dark knowledge",
}


@dataclass(frozen=True)
class LabelWorth:
    """Scores by labels, quality and size, the smallest size first; controls may have the largest size alone.

    tokens, documents, steps  of each size, means over seeds: what was learned from, for how long
    teacher      its own scores, by quality
    curves       labels -> quality -> a score a size
    multipliers  labels but hard -> quality -> one a size of the hard labels
    minus        labels but soft -> quality -> soft labels' score minus theirs, a score a size
    held         what the teacher's labels hold on held-out text, a prediction: entropy_bits, nll_bits, gap_bits, noise
    equivalents  hard labels that give as good a gradient as a soft one, beside the students of soft labels, a score a size
    """

    seeds: int
    tokens: Sequence[float]
    documents: Sequence[float]
    steps: Sequence[float]
    teacher: Mapping[str, Score]
    curves: Mapping[str, Mapping[str, Sequence[Score]]]
    multipliers: Mapping[str, Mapping[str, Sequence[Multiplier]]]
    minus: Mapping[str, Mapping[str, Sequence[Score]]]
    held: Mapping[str, Score]
    equivalents: Sequence[Score]

    def knowledge(self, quality: str = "nats_per_token") -> tuple[str, Score]:
        """(the best of all labels but soft ones at the largest size, soft labels' score minus its): what no control has."""
        sign = 1 if quality == "accuracy" else -1
        best = max(self.minus, key=lambda labels: sign * self.curves[labels][quality][-1].value)
        return best, self.minus[best][quality][-1]

    def headline(self, labels: str = SOFT, quality: str = "nats_per_token") -> Multiplier:
        """At the quality that hard labels reach on all the text."""
        return self.multipliers[labels][quality][-1]

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries; a multiplier of which only a bound is known has that bound and no value."""

        def scores(found: Mapping[str, Mapping[str, Sequence[Score]]]) -> dict[str, object]:
            return {
                labels: {quality: [asdict(one) for one in row] for quality, row in rows.items()}
                for labels, rows in found.items()
            }

        best, knowledge = self.knowledge()
        return {
            "seeds": self.seeds,
            "sizes": [
                {"tokens": tokens, "documents": documents, "steps": steps}
                for tokens, documents, steps in zip(self.tokens, self.documents, self.steps, strict=True)
            ],
            "teacher": {name: asdict(found) for name, found in self.teacher.items()},
            "curves": scores(self.curves),
            "multipliers": {
                labels: {quality: [_bounded(one) for one in row] for quality, row in rows.items()}
                for labels, rows in self.multipliers.items()
            },
            "soft_minus": scores(self.minus),
            "knowledge": {"best_without": best, "soft_minus_it": asdict(knowledge)},
            "labels_hold": {name: asdict(found) for name, found in self.held.items()},
            "hard_label_equivalents": {
                "relative_gradient_error": GRADIENT_ERROR,
                "by_size": [asdict(one) for one in self.equivalents],
            },
        }


def label_worth(wanted: Efficiency, folder: RunFolder) -> LabelWorth:
    """From a folder in which `learn_curves` is done."""
    parts, curves = parts_of(wanted), curves_of(wanted, folder)
    of_teacher = folder.measurement("teacher")
    assert of_teacher is not None
    soft, hard = curves[SOFT], curves[HARD]
    of_labels, beside = information_of(wanted, folder)
    return LabelWorth(
        wanted.seeds,
        [float(np.exp(np.mean(np.log([part.tokens for part in row])))) for row in parts],
        [float(np.mean([len(part.documents) for part in row])) for row in parts],
        [float(np.mean([part.steps for part in row])) for row in parts],
        {quality: score(of_teacher, quality) for quality in QUALITIES},
        {
            labels: {quality: scores_of_curve(curve, quality) for quality in QUALITIES}
            for labels, curve in curves.items()
        },
        {
            labels: {quality: multipliers(curve, hard, quality) for quality in QUALITIES}
            for labels, curve in curves.items()
            if labels != HARD and len(curve.tokens) == len(hard.tokens)
        },
        {
            labels: {quality: differences(_largest(soft, curve), curve, quality) for quality in QUALITIES}
            for labels, curve in curves.items()
            if labels != SOFT
        },
        {name: of_labels.score(name) for name in HELD},
        [_together(row).equivalents(GRADIENT_ERROR) for row in beside],
    )


def _largest(curve: LearningCurve, other: LearningCurve) -> LearningCurve:
    """As many of the largest sizes as the other has."""
    first = len(curve.tokens) - len(other.tokens)
    return LearningCurve(curve.tokens[first:], curve.found[first:])


def _together(found: Sequence[LabelInformation]) -> LabelInformation:
    """The sums of several students."""
    every = [field.name for field in fields(LabelInformation)]
    return LabelInformation(**{name: np.sum([getattr(one, name) for one in found], axis=0) for name in every})


def _bounded(found: Multiplier) -> dict[str, object]:
    plain: dict[str, object] = {name: getattr(found, name) for name in ("quality", "level", "tokens", "least", "most")}
    for name in ("value", "low", "high"):
        value = getattr(found, name)
        is_known = bool(0 < value < np.inf)
        plain[name] = value if is_known else None
        plain[f"{name}_in_words"] = found.in_words(value)
    return plain
