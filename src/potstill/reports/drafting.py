"""The page of a draft: what was predicted and measured, by draft length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from potstill.drafts import Costs, Trial, speedup
from potstill.reports.page import Card, Cell, Chart, Curve, Page, Row, Table, number_cell


def draft_page(student: str, teacher: str, trials: Sequence[Trial], costs: Costs, *, dtype: str) -> Page:
    """The page for these trials of one pair."""
    return Page(
        title="A student as the draft of its teacher",
        lead=f"{student} writes ahead, {teacher} checks. {_verdict(trials)}",
        cards=[card for trial in trials for card in _cards(trial)],
        tables=[*(_table(trial, costs) for trial in trials), *_domains(trials), _cost_table(costs)],
        curves=[_speedups(trials, costs)],
        notes=(
            "Predicted: rounds replayed on the probabilities, 1 - total variation, with which each token of the teacher's own text is "
            "accepted, and times of single forward passes. Measured: transformers' assisted generation, each prompt in turn with the "
            "teacher alone; choosing tokens and keeping count, which prediction leaves out, cost time too.",
            f"Both models were held in {dtype}."
            + (
                ""
                if dtype == "float32"
                else " Its logits are coarse, and many tokens equally likely: texts differ where several are read at once."
            ),
            "Mean acceptance length counts the teacher's own token; draft acceptance rate is accepted / drafted.",
        ),
        charts_first=True,
    )


def words(temperature: float) -> str:
    """How tokens were chosen."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def _verdict(trials: Sequence[Trial]) -> str:
    best = max((one for trial in trials for one in trial.measured), key=lambda one: one.speedup)
    trial = next(trial for trial in trials if best in trial.measured)
    found = f"at best {best.speedup:.2f} times the teacher's speed ({words(trial.temperature)}, {best.length} drafted a round)"
    if best.speedup <= 1:
        return f"It saves no time: {found}."
    return f"{found[0].upper()}{found[1:]}."


def _cards(trial: Trial) -> list[Card]:
    fastest = max(trial.measured, key=lambda one: one.speedup)
    return [
        Card(
            f"a token is accepted, {words(trial.temperature)}",
            f"{trial.rate.value:.1%}",
            "of one text" if math.isnan(trial.rate.low) else f"{trial.rate.low:.1%} – {trial.rate.high:.1%}",
        ),
        Card(f"speed-up, {words(trial.temperature)}", f"{fastest.speedup:.2f} ×", f"{fastest.length} drafted a round"),
    ]


def _table(trial: Trial, costs: Costs) -> Table:
    measured = {one.length: one for one in trial.measured}
    rows = []
    for one in trial.expected:
        real = measured.get(one.length)
        cells = [
            Cell(f"{one.mean_acceptance_length:.2f}"),
            Cell(f"{real.rounds.mean_acceptance_length:.2f}" if real else ""),
            Cell(f"{one.draft_acceptance_rate:.1%}"),
            Cell(f"{real.rounds.draft_acceptance_rate:.1%}" if real else ""),
            Cell(f"{speedup(one, costs):.2f} ×"),
            Cell(f"{real.speedup:.2f} ×" if real else ""),
        ]
        rows.append(Row(str(one.length), cells, is_highlighted=one is trial.best(costs)))
    columns = [
        "tokens a round, predicted",
        "measured",
        "accepted, predicted",
        "measured",
        "speed-up, predicted",
        "measured",
    ]
    return Table(f"By draft length: {words(trial.temperature)}", columns, rows, "drafts a round")


def _domains(trials: Sequence[Trial]) -> list[Table]:
    names = dict.fromkeys(name for trial in trials for name in trial.domains)
    if not names:
        return []
    rows = []
    for name in names:
        rates = [trial.domains[name] for trial in trials if name in trial.domains]
        rows.append(Row(name or "none named", [number_cell(one.value, one.low, one.high) for one in rates]))
    columns = [words(trial.temperature) for trial in trials if trial.domains]
    return [Table("A token is accepted, by domain", columns, rows, "domain")]


def _cost_table(costs: Costs) -> Table:
    rows = [Row("student, one token", [Cell(f"{1000 * costs.draft:.2f}"), Cell(f"{costs.ratio:.2f}")])]
    for count, seconds in enumerate(costs.verify, 1):
        name = "teacher, one token" if count == 1 else f"teacher, {count} at once"
        rows.append(Row(name, [Cell(f"{1000 * seconds:.2f}"), Cell(f"{seconds / costs.verify[0]:.2f}")]))
    return Table("What a forward pass takes here", ["milliseconds", "of the teacher's one"], rows, "pass")


def _speedups(trials: Sequence[Trial], costs: Costs) -> Chart:
    curves = []
    for trial in trials:
        lengths = [one.length for one in trial.expected]
        curves.append(
            Curve(f"predicted, {words(trial.temperature)}", lengths, [speedup(one, costs) for one in trial.expected])
        )
        curves.append(
            Curve(
                f"measured, {words(trial.temperature)}",
                [one.length for one in trial.measured],
                [one.speedup for one in trial.measured],
                is_highlighted=trial.temperature == 0,
            )
        )
    return Chart("Speed-up by draft length", "tokens drafted a round", "times the teacher's tokens a second", curves)
