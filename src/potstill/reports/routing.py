"""The page of a calibration: what a student may answer in its teacher's place, and what is promised of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from potstill.reports.page import Card, Cell, Chart, Curve, Page, Row, Table, share_cell
from potstill.routing.calibration import Calibrated
from potstill.routing.curves import Costs

_FEW = 300
IN_WORDS = {
    "mean_logprob": "mean log-probability",
    "min_logprob": "least log-probability",
    "sum_logprob": "log-probability of the answer",
    "entropy": "entropy",
    "margin": "margin of the likeliest two",
    "classifier": "trained classifier",
}


def routing_page(found: Calibrated, *, student: str, teacher: str, costs: Costs | None) -> Page:
    """Cards, what was promised, how good the signals are, quality against share, costs, domains."""
    tables = [_ways(found), _signals(found), _figures(found)]
    if len(found.domains) > 1:
        tables.append(_domains(found))
    curves = [_quality_chart(found)]
    if costs is not None:
        curves.append(_cost_chart(found, costs))
    return Page(
        title=f"What {student} may answer for {teacher}",
        lead=sentence(found),
        cards=_cards(found, costs),
        tables=tables,
        curves=curves,
        notes=_notes(found),
        charts_first=True,
    )


def sentence(found: Calibrated) -> str:
    """What may be promised, or that nothing may be, in words."""
    promise, delta = found.policy.promise, found.policy.promise.delta
    asked = f"{promise.rho:.1%} of the teacher's quality with probability {1 - delta:.0%}"
    if found.policy.threshold is not None:
        return (
            f"The student answers {promise.share:.1%} of the queries, and the mix keeps at least {asked}; it kept "
            f"{promise.kept:.1%} of it on the {promise.n:,} queries that the promise was tested on."
        )
    if found.needed is None and promise.rho == 1:
        return (
            f"Nothing can be promised: that the mix keeps {promise.rho:.0%} is shown only by a student that is better than its teacher on "
            f"the {promise.n:,} test queries, by more than chance; one that is as good never shows it. Ask for a little "
            "less, as --keep 99.5%. Until then the teacher answers everything."
        )
    if found.needed is None:
        few = f" {promise.n:,} queries are few to judge that by." if promise.n < _FEW else ""
        return (
            f"Nothing can be promised: on {promise.n:,} test queries no share worth having kept {asked}, and by what was seen more queries "
            f"would not change that.{few} The teacher answers everything. A better student, a better signal or a lower bar would help."
        )
    return (
        f"Nothing can be promised from {promise.n:,} test queries: {asked} would take about {found.needed:,} of them "
        f"(an estimate by resampling these), {round(found.needed * _queries_a_test_query(found)):,} queries in all. "
        "Until then the teacher answers everything."
    )


def _queries_a_test_query(found: Calibrated) -> float:
    n = found.policy.promise.n
    return (n + found.num_fitted) / n


def _cards(found: Calibrated, costs: Costs | None) -> list[Card]:
    promise, figures = found.policy.promise, found.curve.figures
    cards = [
        Card("answered by the student", f"{promise.share:.1%}", f"promised: {promise.rho:.1%} of the quality kept"),
        Card("at random, same promise", f"{found.random_promised:.1%}", "coin tosses instead of signals"),
        Card(
            "teacher alone, student alone",
            f"{figures['teacher'].value:.1%}, {figures['student'].value:.1%}",
            "right answers" if found.has_references else "agreement with the teacher",
        ),
    ]
    if costs is not None:
        cards.append(
            Card(
                "cost of the mix",
                f"{costs.relative(promise.share):.0%}",
                "of asking the teacher alone; the student is always asked",
            )
        )
    return cards


def _ways(found: Calibrated) -> Table:
    """The router beside its references."""
    promise, curve = found.policy.promise, found.curve
    teacher, student = curve.figures["teacher"].value, curve.figures["student"].value
    oracle = max(
        (share for share, value in zip(curve.shares, curve.oracle, strict=True) if value >= promise.rho * teacher),
        default=0.0,
    )
    rows = [
        Row("the teacher alone", [Cell("0.0 %"), Cell(f"{teacher:.1%}"), Cell("100.0 %")]),
        Row(
            "this policy, promised",
            [Cell(f"{promise.share:.1%}"), Cell(f"{promise.kept * teacher:.1%}"), Cell(f"{promise.kept:.1%}")],
            is_highlighted=True,
        ),
        Row(
            "at random, promised",
            [Cell(f"{found.random_promised:.1%}"), *_mixed(found.random_promised, student, teacher)],
        ),
        Row(
            "at random, quality of this policy",
            [Cell(f"{found.random_share:.1%}"), Cell(f"{promise.kept * teacher:.1%}"), Cell(f"{promise.kept:.1%}")],
        ),
        Row(
            f"an oracle at {promise.rho:.1%}",
            [Cell(f"{oracle:.1%}"), Cell(f"{promise.rho * teacher:.1%}"), Cell(f"{promise.rho:.1%}")],
        ),
        Row("the student alone", [Cell("100.0 %"), Cell(f"{student:.1%}"), Cell(f"{student / teacher:.1%}")]),
    ]
    note = (
        f"On {promise.n:,} test queries. Promised: with probability {1 - promise.delta:.0%} a calibration gives a threshold that keeps "
        f"{promise.rho:.1%}. The oracle knows both scores beforehand."
    )
    return Table("Who answers", ["student's share", "quality", "kept of the teacher's"], rows, note=note)


def _mixed(share: float, student: float, teacher: float) -> list[Cell]:
    quality = teacher + share * (student - teacher)
    return [Cell(f"{quality:.1%}"), Cell(f"{quality / teacher:.1%}")]


def _signals(found: Calibrated) -> Table:
    rows = [
        Row(
            IN_WORDS[one.name],
            [Cell(f"{one.auroc:.3f}" if math.isfinite(one.auroc) else "–"), Cell(f"{one.ece:.3f}")],
            is_highlighted=place == 0,
        )
        for place, one in enumerate(found.qualities)
    ]
    note = (
        f"Fitted on {found.num_fitted:,} queries, measured on the {found.policy.promise.n:,} others; the first one decides. AUROC: how "
        "often a good answer (as good as the teacher's) is surer than one that is not. ECE: expected calibration error."
    )
    return Table(
        "How well the student knows",
        ["AUROC", "ECE"],
        rows,
        note=note + (f" No classifier: {found.untried}." if found.untried else ""),
    )


def _figures(found: Calibrated) -> Table:
    words = {
        "apgr": "APGR, area of the gap recovered; at random 0.5",
        "cpt_50": "CPT(50 %), calls to the teacher that recover half of the gap",
        "cpt_80": "CPT(80 %), … four fifths of it",
        "share_95": "student's share at 95 % of the teacher's quality",
        "share_97": "… at 97 %",
        "share_99": "… at 99 %",
    }
    figures = found.curve.figures
    rows = [
        Row(text, [share_cell(figures[name].value, figures[name].low, figures[name].high)])
        for name, text in words.items()
    ]
    return Table(
        "What is in the signal",
        ["value"],
        rows,
        note="Read off the curve, with 95 % intervals over queries. None of these is a promise.",
    )


def _domains(found: Calibrated) -> Table:
    rows = [
        Row(
            one.name or "(none)",
            [
                Cell(f"{one.n:,}"),
                Cell(f"{one.share:.1%}"),
                Cell(f"{one.teacher:.1%}"),
                Cell(f"{one.student:.1%}"),
                share_cell(one.kept.value, one.kept.low, one.kept.high),
            ],
        )
        for one in found.domains
    ]
    note = "The promise is of the whole traffic in these proportions, not of a domain: one of them may lose more."
    return Table("By domain", ["queries", "student's share", "teacher", "student", "kept"], rows, note=note)


def _quality_chart(found: Calibrated) -> Chart:
    curve, shares = found.curve, _percent(found.curve.shares)
    promise, teacher = found.policy.promise, found.curve.figures["teacher"].value
    curves = [
        Curve("the signal", shares, _percent(curve.quality), True, _percent(curve.low), _percent(curve.high)),
        Curve("at random", shares, _percent(curve.chance)),
        Curve("oracle", shares, _percent(curve.oracle)),
        Curve(f"{promise.rho:.1%} of the teacher", (0, 100), (100 * promise.rho * teacher,) * 2),
    ]
    if found.policy.threshold is not None:
        curves.append(Curve("promised", (100 * promise.share,), (100 * promise.kept * teacher,), True))
    return Chart(
        "Quality against the student's share",
        "answered by the student, %",
        "quality, %",
        curves,
        note="The band is a 95 % interval over queries.",
    )


def _cost_chart(found: Calibrated, costs: Costs) -> Chart:
    curve = found.curve
    cost = [100 * costs.relative(float(share)) for share in curve.shares]
    curves = [
        Curve("the signal", cost[::-1], _percent(curve.quality)[::-1], True),
        Curve("at random", cost[::-1], _percent(curve.chance)[::-1]),
    ]
    note = (
        f"A query costs the student {costs.student:.3g} and the teacher {costs.teacher:.3g} ({costs.unit}). The student is always "
        f"asked, so the mix is cheaper than the teacher alone only where it answers more than {costs.break_even:.0%}."
    )
    return Chart("Quality against cost", "cost, % of the teacher alone", "quality, %", curves, note=note)


def _notes(found: Calibrated) -> Sequence[str]:
    notes = [
        "The promise is of traffic like these queries, one exchangeable with another: calibrate again when the drift alarm fires.",
        "It is a promise of the calibration: of many calibrations on as many queries, at most "
        f"{found.policy.promise.delta:.0%} give a threshold that keeps less.",
    ]
    if found.num_repeated:
        notes.append(f"{found.num_repeated:,} queries were left out: they were asked already.")
    if not found.has_references:
        notes.append(
            "There were no right answers: quality is agreement with the teacher, whose own answers count as right."
        )
    return notes


def _percent(values: Iterable[float]) -> list[float]:
    return [100 * float(value) for value in values]
