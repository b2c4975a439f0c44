"""Who answers: a policy is numbers in a small JSON file, nothing that runs.

    policy = Policy.load(Path("route/policy.json"))
    decision = policy.decide(signals_of(tokens))        # answer_by "student" or "teacher"; why: confidence against threshold

docs/routing.md has the file's form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from potstill.errors import DataError, RunDirectoryError
from potstill.routing.signals import PROMPT_FEATURES, SIGNALS, Signals, prompt_features

VERSION = 2
AnsweredBy = Literal["student", "teacher"]
Answering = Literal["written", "choice", "token", "given"]


@dataclass(frozen=True)
class Confidence:
    """From signals to P(the student's answer is as good as the teacher's): a weighted sum, then a rising line through points.

    features   of the sum: SIGNALS and PROMPT_FEATURES
    weights    of each feature, in the feature's own units. A single signal has weight 1, or -1 where less is surer
    intercept  of the sum
    points     (sum, probability) in rising order, joined by straight lines and level outside
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    points: tuple[tuple[float, float], ...]

    @property
    def needs_prompt(self) -> bool:
        """Whether what was asked is among the features."""
        return any(name in PROMPT_FEATURES for name in self.features)

    def score(self, signals: Signals, prompt: str | None = None) -> float:
        """The weighted sum. DataError naming a feature that is not there."""
        found = signals.named() | (prompt_features(prompt) if prompt is not None and self.needs_prompt else {})
        total = self.intercept
        for name, weight in zip(self.features, self.weights, strict=True):
            if name not in found:
                needs = "the prompt" if name in PROMPT_FEATURES else "top_logprobs, at least 2 a token"
                raise DataError(f"this policy goes by {name!r}, which needs {needs}, and the answer came without")
            total += weight * found[name]
        return total

    def of_score(self, score: float) -> float:
        """The probability that belongs to a sum."""
        x, y = zip(*self.points, strict=True)
        return float(np.interp(score, x, y))


@dataclass(frozen=True)
class Promise:
    """Quality of the mix >= rho · the teacher's, with probability >= 1 - delta over calibration sets of n queries.

    share   of these n that the student answers
    kept    the mix's quality on them, as a share of the teacher's; the threshold was chosen on them
    """

    rho: float
    delta: float
    n: int
    share: float
    kept: float


@dataclass(frozen=True)
class Histogram:
    """How the sums behind confidences were spread over the calibration set: shares of n between the inner edges.

    The sums, because many of them may have the same confidence, and all where the curve is level.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    n: int


@dataclass(frozen=True)
class Calibration:
    """What a policy was calibrated on.

    answering  written: what the models write; choice: the likeliest of given answers; token: the likeliest next token of a text; given:
               unknown, signals were given
    queries    their fingerprint
    student, teacher   name and fingerprint
    """

    date: str
    answering: Answering
    queries: str
    student: str
    teacher: str


@dataclass(frozen=True)
class Decision:
    """Who answers. The student does where confidence >= threshold; threshold None: nothing is promised, the teacher answers all.

    score  the sum that the confidence belongs to, which the drift alarm looks at
    """

    answer_by: AnsweredBy
    confidence: float
    threshold: float | None
    score: float


@dataclass(frozen=True)
class Policy:
    """Which answers of a student are good enough to be sent.

    threshold     of the confidence; None where no promise could be made
    top_logprobs  likeliest tokens to ask the student's server for, as when it was calibrated
    """

    confidence: Confidence
    threshold: float | None
    promise: Promise
    histogram: Histogram
    calibration: Calibration
    top_logprobs: int

    def decide(self, signals: Signals, *, prompt: str | None = None) -> Decision:
        """Who answers, from the student's own answer. DataError where a signal that the policy goes by is missing."""
        score = self.confidence.score(signals, prompt)
        confidence = self.confidence.of_score(score)
        is_sure = self.threshold is not None and confidence >= self.threshold
        return Decision("student" if is_sure else "teacher", confidence, self.threshold, score)

    def to_json(self) -> dict[str, object]:
        """Plain numbers and words."""
        return {"potstill_policy": VERSION, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. RunDirectoryError where that can't be done."""
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", "utf-8")
            part.replace(path)
        except OSError as error:
            raise RunDirectoryError(f"can't write the policy {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> Policy:
        """The way back. DataError for a file that holds no policy, or one of another version."""
        try:
            found = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise DataError(f"the policy {path} can't be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no policy, it is not JSON: {error}") from error
        return policy_from_json(found, str(path))


def policy_from_json(found: object, where: str) -> Policy:
    """A policy from what its file holds. DataError naming what is wrong in it."""
    if not isinstance(found, Mapping) or "potstill_policy" not in found:
        raise DataError(f"{where} is no policy: `potstill route` writes one")
    if found["potstill_policy"] != VERSION:
        raise DataError(
            f"{where} is a policy of version {found['potstill_policy']!r}, and this potstill reads version {VERSION}: calibrate again"
        )
    try:
        confidence, promise, histogram = found["confidence"], found["promise"], found["histogram"]
        policy = Policy(
            Confidence(
                tuple(confidence["features"]),
                _numbers(confidence["weights"]),
                _number(confidence["intercept"]),
                tuple((_number(x), _number(y)) for x, y in confidence["points"]),
            ),
            None if found["threshold"] is None else _number(found["threshold"]),
            Promise(
                rho=_number(promise["rho"]),
                delta=_number(promise["delta"]),
                n=_count(promise["n"]),
                share=_number(promise["share"]),
                kept=_number(promise["kept"]),
            ),
            Histogram(_numbers(histogram["edges"]), _numbers(histogram["shares"]), _count(histogram["n"])),
            _calibration(found["calibration"]),
            _count(found["top_logprobs"]),
        )
        _check(policy)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} is a damaged policy: {error}. Calibrate again") from error
    return policy


def _check(policy: Policy) -> None:
    """ValueError for numbers that don't go together."""
    confidence, points = policy.confidence, policy.confidence.points
    if unknown := set(confidence.features) - {*SIGNALS, *PROMPT_FEATURES}:
        raise ValueError(f"unknown features {sorted(unknown)}")
    if not confidence.features or len(confidence.features) != len(confidence.weights):
        raise ValueError("each feature needs a weight")
    if not points or any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(points)):
        raise ValueError("the points do not rise")
    if not all(0 <= y <= 1 for _, y in points) or not (policy.threshold is None or 0 <= policy.threshold <= 1):
        raise ValueError("points and threshold are probabilities")
    _check_histogram(policy.histogram)
    if not (0 < policy.promise.rho <= 1 and 0 < policy.promise.delta < 1):
        raise ValueError("rho is in (0, 1], delta in (0, 1)")


def _calibration(found: object) -> Calibration:
    if not isinstance(found, Mapping):
        raise ValueError("the calibration is no object")
    if wrong := [name for name, value in found.items() if not isinstance(value, str)]:
        raise ValueError(f"the calibration's {wrong[0]} is a text, found {str(found[wrong[0]])[:80]!r}")
    if found["answering"] not in get_args(Answering):
        raise ValueError(f"answering is one of {', '.join(get_args(Answering))}, found {found['answering']!r}")
    return Calibration(**found)  # type: ignore[arg-type]


def _check_histogram(histogram: Histogram) -> None:
    if len(histogram.shares) != len(histogram.edges) + 1:
        raise ValueError("the histogram needs one share more than it has edges")
    if any(a >= b for a, b in pairwise(histogram.edges)):
        raise ValueError("the histogram's edges do not rise")
    if min(histogram.shares) < 0 or abs(sum(histogram.shares) - 1) > 1e-6:
        raise ValueError("the histogram's shares are at least 0 and sum to 1")


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError(f"{str(value)[:80]} is no count")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _numbers(values: Sequence[object]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)
