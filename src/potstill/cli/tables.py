"""Scores as a table on the terminal: values with their intervals, and what is better in words."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from potstill.reports.sentences import worth_in_words
from potstill.runs import IN_WORDS, OTHER_TOKENS, ModelScores, RunScores
from potstill.types import Score

_BITS = ("bits_per_byte", ("bits a byte", "{:.3f}"))
_COLUMNS = {
    "perplexity": ("perplexity", "{:.2f}"),
    "accuracy": ("right", "{:.1%}"),
    "agreement": ("agrees", "{:.1%}"),
    "kl_to_teacher": ("KL, nats", "{:.3f}"),
}


def print_scores(scores: RunScores, console: Console) -> None:
    """The table, sizes and speeds, and what the comparison says."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    has_other_tokens = any("accuracy" not in model.scores for model in scores.models)
    columns = _COLUMNS | dict([_BITS]) if has_other_tokens else _COLUMNS
    for title, _ in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for model in scores.models:
        style = "bold green" if model.name == "distilled" and len(scores.models) > 2 else None
        table.add_row(
            IN_WORDS[model.name], *(_cell(model, metric, form) for metric, (_, form) in columns.items()), style=style
        )
    console.print()
    console.print(table)
    n = next(found.n for model in scores.models for found in model.scores.values())
    console.print(f"[dim]below each value its 95 % interval, from a bootstrap over {n} held-out documents[/dim]\n")
    if has_other_tokens:
        console.print(f"[dim]{OTHER_TOKENS}[/dim]\n")
    _print_sizes(scores, console)
    for model in scores.models:
        kept = model.kept.get("accuracy")
        if model.name in ("distilled", "model") and kept is not None and math.isfinite(kept.value):
            console.print(f"keeps {kept.value:.1%} of the teacher's accuracy  ({kept.low:.1%} to {kept.high:.1%})")
        if model.name == "distilled" and has_other_tokens and (bits := model.kept.get("bits_per_byte")) is not None:
            console.print(f"the teacher needs {bits.value:.1%} of its bits a byte  ({bits.low:.1%} to {bits.high:.1%})")
    for model in scores.models:
        if model.name.startswith("hard_labels"):
            console.print(_verdict(model))
    if scores.worth is not None:
        console.print(escape(worth_in_words(scores.worth)))


def _cell(model: ModelScores, metric: str, form: str) -> str:
    if metric not in model.scores or (model.name == "teacher" and metric in ("agreement", "kl_to_teacher")):
        return "[dim]–[/dim]"
    score = model.scores[metric]
    return f"{form.format(score.value)}\n[dim]{form.format(score.low)}–{form.format(score.high)}[/dim]"


def _print_sizes(scores: RunScores, console: Console) -> None:
    for name, size in scores.sizes.items():
        speed = scores.speeds.get(name)
        fast = "" if speed is None else f", reads {speed.prefill_tokens_per_second:,.0f}"
        if speed is not None and speed.decode_tokens_per_second is not None:
            fast += f" and writes {speed.decode_tokens_per_second:,.0f}"
        fast += " tokens/s" if fast else ""
        console.print(
            f"{IN_WORDS[name]}: {size.total / 1e6:.2f} M parameters, {size.non_embedding / 1e6:.2f} M of them not embeddings{fast}"
        )


def _verdict(model: ModelScores) -> str:
    perplexity, kl = (model.distilled_minus_this.get(metric) for metric in ("perplexity", "kl_to_teacher"))
    assert perplexity is not None
    return against(IN_WORDS[model.name], perplexity, kl, who="distilling")


def against(control: str, perplexity: Score, kl: Score | None, *, who: str) -> str:
    """What `who` has beyond a control, with intervals, and which is better."""
    numbers = f"against {control}: perplexity {perplexity.value:+.2f} ({_interval(perplexity)})"
    if kl is None:
        return f"{numbers} — {_in_words(who, perplexity)}"
    return f"{numbers}, KL to the teacher {kl.value:+.3f} ({_interval(kl)}) — {_in_words(who, perplexity, kl)}"


def _interval(score: Score) -> str:
    return f"{score.low:+.3g} to {score.high:+.3g}"


def _in_words(who: str, *differences: Score) -> str:
    in_both = " in both" if len(differences) > 1 else ""
    if all(difference.high < 0 for difference in differences):
        return f"[green]{who} is better{in_both}[/green]"
    if all(difference.low > 0 for difference in differences):
        return f"[red]{who} is worse{in_both}[/red]"
    if not in_both:
        return "[yellow]no clear answer[/yellow]"
    return (
        "[yellow]no clear answer in one of them[/yellow]"
        if not _mixed(differences)
        else "[yellow]better in one, worse in the other[/yellow]"
    )


def _mixed(differences: tuple[Score, ...]) -> bool:
    return any(d.high < 0 for d in differences) and any(d.low > 0 for d in differences)
