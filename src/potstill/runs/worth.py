"""Is the teacher worth hearing on this text? It is measured beside a student that learned from labels alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from potstill.evaluation import Measurement, difference, score
from potstill.runs.facts import finite
from potstill.types import Score

Verdict = Literal["worth", "unclear", "not"]


@dataclass(frozen=True)
class Worth:
    """A teacher beside a student of labels alone, on the same documents that neither learned from.

    metric   what they are compared by: nats a prediction, or bits a byte where they cut text differently; lower is better
    teacher, labels   its values, and the share that each gets right where that can be compared
    lead     labels - teacher, paired: above 0 the teacher knows the text better
    coming   what labels are expected to gain yet until the end of the run; 0 at its end
    heard    distilled student - labels, paired: below 0 hearing the teacher helped; None beforehand
    """

    metric: str
    teacher: Score
    labels: Score
    lead: Score
    coming: float = 0.0
    heard: Score | None = None
    teacher_right: Score | None = None
    labels_right: Score | None = None

    @property
    def verdict(self) -> Verdict:
        """worth: it clearly knows the text better, at the end of the run too. not: labels clearly know it better already."""
        if self.lead.high < 0:
            return "not"
        return "worth" if self.lead.low - self.coming > 0 else "unclear"

    def to_json(self) -> dict[str, object]:
        """As plain values, with the verdict; what is not a number is none."""
        return {"verdict": self.verdict, **{name: finite(value) for name, value in asdict(self).items()}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Worth:
        """What `to_json` wrote."""
        scores = {name: Score(**_restored(value)) for name, value in found.items() if isinstance(value, Mapping)}
        return cls(metric=str(found["metric"]), coming=float(found["coming"]), **scores)


def worth_of(teacher: Measurement, labels: Measurement, *, distilled: Measurement | None = None) -> Worth:
    """The two on the same text; with `distilled`, also what came of hearing the teacher. DataError where the text isn't the same."""
    is_cut_alike = np.array_equal(teacher.tokens, labels.tokens)
    metric = "nats_per_token" if is_cut_alike else "bits_per_byte"
    return Worth(
        metric,
        score(teacher, metric),
        score(labels, metric),
        difference(labels, teacher, metric),
        heard=None if distilled is None else difference(distilled, labels, metric),
        teacher_right=score(teacher, "accuracy") if is_cut_alike else None,
        labels_right=score(labels, "accuracy") if is_cut_alike else None,
    )


def expected_gain(half: float, whole: float, steps: int, all_steps: int) -> float:
    """Of a loss that was `half` after half of `steps` and `whole` after them, until `all_steps`: as much for each doubling.

    Learning curves flatten, so this is rather too much: a teacher that is found worth hearing all the same is.
    """
    return max(0.0, half - whole) * math.log2(max(1.0, all_steps / steps))


def _restored(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in found.items()}
