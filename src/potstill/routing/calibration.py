"""From scored queries to a policy: one part of them teaches what a signal is worth, the other tests what may be promised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float

from potstill.errors import DataError
from potstill.routing.confidence import (
    CLASSIFIER,
    Fitted,
    Quality,
    auroc,
    features_of,
    fit_classifier,
    fit_signal,
    on_points,
    quality_of,
    scores_of,
)
from potstill.routing.curves import CostCurve, cost_curve, share_at_random
from potstill.routing.drift import histogram_of
from potstill.routing.policy import Answering, Calibration, Policy, Promise
from potstill.routing.promise import betting_p_value, certify, net_loss, queries_needed, thresholds_of
from potstill.routing.queries import Scored
from potstill.routing.signals import SIGNALS, prompt_features
from potstill.types import Score

Array = np.ndarray
AUTO = "auto"
_DRAWS = 1000
_LEAST_PART = 15


@dataclass(frozen=True)
class Wanted:
    """What is to be promised, and how.

    rho        share of the teacher's quality that the mix keeps
    delta      probability that a calibration gives a threshold which doesn't
    by         a signal's name, `classifier`, or `auto`: the one that tells best on the fitting part
    fit_share  of the queries, for fitting confidences; the others test the promise
    seed       which queries are in which part, and in which order they are tested
    """

    rho: float = 0.97
    delta: float = 0.1
    by: str = AUTO
    fit_share: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """Who answered, by name and fingerprint, and how."""

    answering: Answering
    student: str
    teacher: str


@dataclass(frozen=True)
class Domain:
    """What becomes of one domain's queries in the test part. Nothing is promised of it alone.

    share          answered by the student
    student, teacher   quality of each alone
    kept           the mix's quality as a share of the teacher's
    """

    name: str
    n: int
    share: float
    student: float
    teacher: float
    kept: Score


@dataclass(frozen=True)
class Calibrated:
    """A policy and what it was found with, on the n test queries.

    qualities     of every way to be confident, the chosen one first
    untried       a classifier that was left out, and why; empty where it was not
    needed        about how many test queries a promise takes, where none was made; None: none would do
    random_share  that routing at random may leave to the student at the mix's quality
    random_promised   share that routing at random may leave to it with the same promise
    num_fitted    queries of the fitting part
    num_repeated  queries that were left out, being asked already
    """

    policy: Policy
    qualities: tuple[Quality, ...]
    untried: str
    needed: int | None
    curve: CostCurve
    random_share: float
    random_promised: float
    domains: tuple[Domain, ...]
    num_fitted: int
    has_references: bool
    num_repeated: int


def calibrate(scored: Scored, asked: Asked, wanted: Wanted | None = None) -> Calibrated:
    """A policy with a promise, or with none where none can be made. DataError where the queries allow nothing."""
    wanted, given = wanted or Wanted(), len(scored.student)
    scored = _once(scored)
    n = len(scored.student)
    order = np.random.default_rng(wanted.seed).permutation(n)
    fitting, testing = np.split(order, [round(wanted.fit_share * n)])
    if min(len(fitting), len(testing)) < _LEAST_PART:
        raise DataError(
            f"of {n} queries {len(fitting)} would be fitted on and {len(testing)} tested on, and both need {_LEAST_PART}: give more "
            "queries, or change --fit"
        )
    columns = _columns(scored)
    good = (scored.student >= scored.teacher).astype(float)
    fitted, untried = _fitted({name: values[fitting] for name, values in columns.items()}, good[fitting], wanted.by)
    test = {name: values[testing] for name, values in columns.items()}
    scores = [scores_of(one.confidence, test) for one in fitted]
    confidences = [on_points(one.confidence, some) for one, some in zip(fitted, scores, strict=True)]
    qualities = [quality_of(one.name, found, good[testing]) for one, found in zip(fitted, confidences, strict=True)]
    chosen, confidence = fitted[0], confidences[0]
    student, teacher = scored.student[testing], scored.teacher[testing]
    if teacher.mean() == 0:
        raise DataError("the teacher gets no query right: no share of its quality can be promised; look at the answers")
    thresholds = thresholds_of(on_points(chosen.confidence, chosen.scores))
    asking = {"rho": wanted.rho, "delta": wanted.delta}
    threshold = certify(confidence, student, teacher, thresholds, **asking).threshold
    needed = None if threshold is not None else queries_needed(confidence, student, teacher, thresholds, **asking)
    answered = confidence >= (math.inf if threshold is None else threshold)
    mix = float(np.where(answered, student, teacher).mean())
    policy = Policy(
        chosen.confidence,
        threshold,
        Promise(**asking, n=len(testing), share=float(answered.mean()), kept=mix / float(teacher.mean())),
        histogram_of(scores[0]),
        Calibration(
            datetime.now(UTC).date().isoformat(), asked.answering, scored.fingerprint, asked.student, asked.teacher
        ),
        scored.top_logprobs,
    )
    return Calibrated(
        policy,
        tuple(qualities),
        untried,
        needed,
        cost_curve(confidence, student, teacher),
        share_at_random(mix, float(student.mean()), float(teacher.mean())),
        _promised_at_random(student, teacher, wanted),
        _domains([scored.domains[at] for at in testing], answered, student, teacher),
        len(fitting),
        scored.references,
        given - n,
    )


def _once(scored: Scored) -> Scored:
    """Each query once: of repeated ones the parts would share some, and each would count as if it were new evidence."""
    if scored.keys is None:
        return scored
    kept = np.sort(np.unique(np.array(scored.keys), return_index=True)[1])
    return replace(
        scored,
        student=scored.student[kept],
        teacher=scored.teacher[kept],
        signals=tuple(scored.signals[at] for at in kept),
        domains=tuple(scored.domains[at] for at in kept),
        prompts=None if scored.prompts is None else tuple(scored.prompts[at] for at in kept),
        keys=tuple(scored.keys[at] for at in kept),
    )


def _columns(scored: Scored) -> dict[str, Float[Array, " queries"]]:
    """Signals that every query has, and what its prompt looks like."""
    signals = features_of([one.named() for one in scored.signals])
    if not signals:
        raise DataError("no signal is there for all queries: give the same ones in every row")
    return signals | (features_of([prompt_features(one) for one in scored.prompts]) if scored.prompts else {})


def _fitted(
    columns: Mapping[str, Float[Array, " queries"]], good: Float[Array, " queries"], by: str
) -> tuple[list[Fitted], str]:
    """Every way that can be fitted, the chosen one first; and why there is no classifier, if there is none."""
    found = [fit_signal(name, columns[name], good) for name in SIGNALS if name in columns]
    untried = ""
    if by != CLASSIFIER and find_spec("sklearn") is None:
        untried = "scikit-learn is not installed: in a clone of potstill, pip install '.[route]'"
    else:
        try:
            found.append(fit_classifier(columns, good))
        except DataError as error:
            if by == CLASSIFIER:
                raise
            untried = str(error)
    names = [one.name for one in found]
    if by != AUTO and by not in names:
        raise DataError(
            f"{by!r} is not among what these queries have ({', '.join(names)}): choose one of them, or auto"
        )
    worth = [np.nan_to_num(auroc(on_points(one.confidence, one.scores), good), nan=0.5) for one in found]
    best = int(np.argmax(worth)) if by == AUTO else names.index(by)
    return [found[best], *found[:best], *found[best + 1 :]], untried


def _promised_at_random(student: Float[Array, " queries"], teacher: Float[Array, " queries"], wanted: Wanted) -> float:
    """The share of coin tosses with the same promise: an answer is the student's with the same probability at every query."""
    found = 0.0
    for share in np.linspace(0, 1, 51)[1:]:
        losses = net_loss(np.full(len(student), share), student, teacher, wanted.rho)
        if not betting_p_value(losses, rho=wanted.rho, delta=wanted.delta) <= wanted.delta:
            break
        found = float(share)
    return found


def _domains(names: list[str], answered: Array, student: Array, teacher: Array) -> tuple[Domain, ...]:
    found, of = [], np.array(names)
    for name in sorted(set(names)):
        here = of == name
        mix = np.where(answered, student, teacher)[here]
        found.append(
            Domain(
                name,
                int(here.sum()),
                float(answered[here].mean()),
                float(student[here].mean()),
                float(teacher[here].mean()),
                _kept(mix, teacher[here]),
            )
        )
    return tuple(found)


def _kept(mix: Array, teacher: Array) -> Score:
    """The mix's quality as a share of the teacher's, with a 95 % interval from a bootstrap over queries."""
    n, random = len(mix), np.random.default_rng(0)
    drawn = (random.integers(n, size=n) for _ in range(_DRAWS))
    with np.errstate(divide="ignore", invalid="ignore"):
        value, values = (
            mix.mean() / teacher.mean(),
            np.array([mix[some].mean() / teacher[some].mean() for some in drawn]),
        )
    low, high = np.quantile(values, [0.025, 0.975]) if n > 1 and np.isfinite(values).all() else (np.nan, np.nan)
    return Score("kept", float(value), float(low), float(high), n)
