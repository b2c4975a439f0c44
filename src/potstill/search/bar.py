"""What quality is acceptable, and whether a student has it.

"Keep 95 %" says something of all text, and is judged on some of it. So a bar is cleared when the lower end of a bootstrap interval
over held-out documents clears it: documents are drawn again, student and teacher on the same draws. When several candidates may be
judged on the same documents, each is given its share of the error (Bonferroni); with few documents percentiles are too narrow, and are
widened by the t quantile (Hesterberg 2015, arXiv:1411.5279, section 4.2: the expanded percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.evaluation import Measurement

Array = NDArray[np.float64]
_DRAWS, _DRAWS_AT_ONCE, _SEED = 10_000, 500, 20_260_102
# The interval is of 95 %: two tails of this.
TAIL = 0.025
# Below so many documents the lowest draws are single documents, and nothing is proved.
FEWEST = 8
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Evidence:
    """What a model did on held-out text and on questions.

    text     sums by document
    unigram  [documents]: nats of surprise of the training text's token frequencies, on the same predictions
    answers  by the questions' name: [questions], how right each answer is, from 0 to 1
    """

    text: Measurement
    unigram: Array
    answers: Mapping[str, Array]


@dataclass(frozen=True)
class Bar:
    """The least a student must reach.

    metric    accuracy, bits, agreement, or the name of some questions
    least     as a share of what the teacher reaches, or of itself when absolute
    absolute  whether `least` is the metric's own value (bits: at most so many bits per byte)
    """

    metric: str
    least: float
    absolute: bool = False

    def __str__(self) -> str:
        name = _IN_WORDS.get(self.metric, f"score on {self.metric}")
        if self.metric == "bits" and self.absolute:
            return f"at most {self.least:g} bits per byte"
        if self.absolute or self.metric == "agreement":
            return f"at least {self.least:.4g} {name}" if self.least > 1 else f"at least {self.least:.4g} of {name}"
        return f"at least {self.least:.1%} of the teacher's {name}".replace(".0%", "%")


@dataclass(frozen=True)
class Verdict:
    """Whether a student clears a bar: its value, the interval it was judged by, from n documents or questions."""

    bar: Bar
    value: float
    low: float
    high: float
    n: int
    holds: bool


_IN_WORDS = {
    "accuracy": "next-token accuracy",
    "bits": "advantage in bits per byte over a unigram model",
    "agreement": "predictions agreeing with the teacher's",
}
METRICS = tuple(_IN_WORDS)

# Each takes sums [..., names] by name, of the student (s) and the teacher (t).
_Sums = Mapping[str, Array]
_RELATIVE: Mapping[str, Callable[[_Sums], Array]] = {
    "accuracy": lambda w: w["s.hits"] / w["t.hits"],
    "bits": lambda w: (w["unigram"] - w["s.nll"]) / (w["unigram"] - w["t.nll"]),
    "agreement": lambda w: w["s.agreements"] / w["tokens"],
}
_ABSOLUTE: Mapping[str, Callable[[_Sums], Array]] = {
    "accuracy": lambda w: w["s.hits"] / w["tokens"],
    "bits": lambda w: w["s.nll"] / math.log(2) / w["bytes"],
    "agreement": _RELATIVE["agreement"],
}


def judge(bar: Bar, student: Evidence, teacher: Evidence, *, looks: int = 1) -> Verdict:
    """Whether the student clears the bar, when `looks` candidates may be judged on this text.

    Raises DataError for a metric that wasn't measured, and where the two were not measured on the same text.
    """
    draws = retained(bar, student, teacher)
    value, n = float(draws.values[0]), draws.n
    if n < 2:
        return Verdict(bar, value, math.nan, math.nan, n, False)
    if bar.metric not in METRICS:
        draws = retained(
            bar, _with_doubts(student, bar.metric, right=0.0), _with_doubts(teacher, bar.metric, right=1.0)
        )
    tail = expanded_tail(TAIL / looks, n)
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(draws.values[1:], [tail, 1 - tail])
    at_most = bar.metric == "bits" and bar.absolute
    holds = bool(high <= bar.least if at_most else low >= bar.least) and n >= FEWEST
    return Verdict(bar, value, float(low), float(high), n, holds)


@dataclass(frozen=True)
class Draws:
    """values [1 + draws]: the bar's metric on all n documents, then on each draw of them."""

    values: Array
    n: int

    @property
    def error(self) -> float:
        """The standard error; infinite where too many draws have no value (a teacher that is right on few questions)."""
        found = self.values[1:][np.isfinite(self.values[1:])]
        return float(found.std()) if self.n > 1 and 2 * len(found) > len(self.values) else math.inf


def retained(bar: Bar, student: Evidence, teacher: Evidence) -> Draws:
    """The bar's own metric, on all text and on each draw of its documents."""
    columns = _columns(bar, student, teacher)
    formula = _mean_ratio(bar) if bar.metric not in METRICS else (_ABSOLUTE if bar.absolute else _RELATIVE)[bar.metric]
    n = len(next(iter(columns.values())))
    table = np.stack([columns[name] for name in columns], axis=1)
    whole = {name: np.asarray(values.sum()) for name, values in columns.items()}
    _check_something_to_keep(bar, whole)
    found = [formula(whole)]
    generator = np.random.default_rng(_SEED)
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(_DRAWS // _DRAWS_AT_ONCE):
            counts = generator.multinomial(n, np.full(n, 1 / n), size=_DRAWS_AT_ONCE)
            found.append(formula(dict(zip(columns, (counts @ table).T, strict=True))))
    return Draws(np.concatenate([np.atleast_1d(np.asarray(one, float)) for one in found]), n)


def check_something_to_keep(bar: Bar, teacher: Evidence) -> None:
    """DataError where the teacher's own score, which a share is asked of, is none."""
    _check_something_to_keep(
        bar, {name: np.asarray(one.sum()) for name, one in _columns(bar, teacher, teacher).items()}
    )


def _check_something_to_keep(bar: Bar, sums: _Sums) -> None:
    if not bar.absolute and _teachers_score(bar, sums) <= 0:
        raise DataError(
            f"the teacher's own {_IN_WORDS.get(bar.metric, f'score on {bar.metric}')} is none, so there is nothing to keep a share of: "
            "check that text or questions and teacher belong together, or set an absolute bar"
        )


def _with_doubts(one: Evidence, name: str, *, right: float) -> Evidence:
    """Two questions more, which the student gets wrong and the teacher right.

    On few questions the two may agree on all by luck, and no draw would then know that they can differ (Agresti and Caffo 2000 add as much
    to a difference of proportions).
    """
    doubtful = np.append(one.answers[name], [right, right])
    return replace(one, answers={**one.answers, name: doubtful})


def expanded_tail(tail: float, n: int) -> float:
    """The tail of the percentiles that is as wide as a t interval of n values: Phi(sqrt(n / (n - 1)) t_{tail, n-1})."""
    z, v = _NORMAL.inv_cdf(tail), n - 1
    # Abramowitz and Stegun 1964, 26.7.5.
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return _NORMAL.cdf(math.sqrt(n / v) * t)


def margin(error: float, *, looks: int, power: float = 0.5) -> float:
    """How far above a bar the truth must lie, for an interval of this standard error to clear it with that probability."""
    return error * (_NORMAL.inv_cdf(1 - TAIL / looks) + _NORMAL.inv_cdf(power))


def expected_error(bar: Bar, teacher: Evidence) -> float:
    """The standard error of the metric of a student not far from the bar, before there is one.

    Of text: a student and its teacher differ in being right on one prediction in seven, each such prediction of a document counting half
    (they go together); what students of this project's benchmarks come to, within a factor of two. Of questions: on a quarter.
    """
    if bar.metric not in METRICS:
        answers = teacher.answers[bar.metric]
        return math.sqrt(0.25 / max(1, len(answers))) / max(1e-9, 1.0 if bar.absolute else float(answers.mean()))
    tokens, hits = float(teacher.text.tokens.sum()), float(teacher.text.hits.sum())
    error = math.sqrt(2 * 0.15 / max(1.0, tokens))
    return error if bar.absolute or bar.metric == "agreement" else error / max(1e-9, hits / tokens)


def documents_needed(error: float, n: int, distance: float, *, looks: int, power: float = 0.8) -> int:
    """How many documents it takes to show, with that probability, a student that is `distance` above the bar, where n give this error."""
    return math.ceil(n * (margin(error, looks=looks, power=power) / distance) ** 2)


def _columns(bar: Bar, student: Evidence, teacher: Evidence) -> dict[str, Array]:
    if bar.metric not in METRICS:
        if bar.metric not in student.answers or bar.metric not in teacher.answers:
            raise DataError(
                f"there is no metric {bar.metric!r}: choose among {', '.join((*METRICS, *teacher.answers))}"
            )
        ours, theirs = student.answers[bar.metric], teacher.answers[bar.metric]
        if len(ours) != len(theirs):
            raise DataError(f"student and teacher answered {len(ours)} and {len(theirs)} questions of {bar.metric}")
        return {"s": ours, "t": theirs, "one": np.ones(len(ours))}
    one, other = student.text, teacher.text
    if not np.array_equal(one.tokens, other.tokens):
        raise DataError("student and teacher were not measured on the same text")
    counted = one.tokens > 0
    columns = {
        "tokens": one.tokens,
        "bytes": one.bytes,
        "s.hits": one.hits,
        "t.hits": other.hits,
        "s.nll": one.nll,
        "t.nll": other.nll,
        "unigram": student.unigram,
        "s.agreements": one.agreements if one.has_teacher else one.tokens,
    }
    return {name: values[counted] for name, values in columns.items()}


def _teachers_score(bar: Bar, sums: _Sums) -> float:
    match bar.metric:
        case "accuracy":
            return float(sums["t.hits"])
        case "bits":
            return float(sums["unigram"] - sums["t.nll"])
        case "agreement":
            return 1.0
        case _:
            return float(sums["t"])


def _mean_ratio(bar: Bar) -> Callable[[_Sums], Array]:
    return (lambda w: w["s"] / w["one"]) if bar.absolute else (lambda w: w["s"] / w["t"])
