"""Learning curves with a person watching: what is planned, what is learned, what came of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from potstill.cli.watching import Watching
from potstill.models import this_device
from potstill.recipe import BuiltEfficiency, Recipe, build_efficiency, recipe_toml
from potstill.reports import label_worth_page, write_picture, write_report
from potstill.reports.label_worth import rows_in_words, verdict
from potstill.reports.markdown import write_markdown
from potstill.runs import (
    GRADIENT_ERROR,
    Control,
    Efficiency,
    LabelWorth,
    estimate,
    label_worth,
    learn_curves,
    manifest,
    parts_of,
    trainings_of,
)


def run_curves(
    recipe: Recipe,
    out: Path,
    console: Console,
    *,
    sizes: int,
    factor: float,
    largest: int | None,
    seeds: int,
    controls: tuple[Control, ...],
    everywhere: bool,
    dry_run: bool,
) -> None:
    """Build the objects, say what is to be trained, train what is not, and leave information.json, .html, .md and curves.svg."""
    disable_progress_bar()
    built = build_efficiency(
        recipe,
        out,
        sizes=sizes,
        factor=factor,
        largest=largest,
        seeds=seeds,
        controls=controls,
        everywhere=everywhere,
        say=lambda text: console.print(f"[dim]{escape(text)} …[/dim]"),
    )
    _print_plan(built.efficiency, console)
    if dry_run:
        return
    details = manifest({"run": built.facts})
    built.folder.write_json("manifest.json", details)
    with Watching(console) as watching:
        for _ in watching.through(learn_curves(built.efficiency, built.folder)):
            pass
    worth = label_worth(built.efficiency, built.folder)
    if built.folder.is_written_here:
        _leave(recipe, built, worth, details)
        _print_worth(worth, console)
        console.print(f"\npicture  [bold]{escape(str(out / 'curves.svg'))}[/bold]")
        console.print(f"report   [bold]{escape(str(out / 'information.html'))}[/bold]")


def policy_of(recipe: Recipe) -> str:
    """How long each size is learned from, in words."""
    training = recipe.training
    if training.epochs is not None:
        times = "once" if training.epochs == 1 else f"{training.epochs:g} times"
        return f"each is read {times}, so a larger part takes more steps"
    return "each is learned from for as many steps as the others, so a smaller part is read more often"


def _leave(recipe: Recipe, built: BuiltEfficiency, worth: LabelWorth, details: dict[str, object]) -> None:
    folder, policy = built.folder, policy_of(recipe)
    folder.write_json("information.json", {"recipe": recipe.name, "policy": policy, **worth.to_json()})
    page = label_worth_page(recipe.name, worth, policy=policy, recipe=recipe_toml(recipe), manifest=details)
    write_report(page, folder.path / "information.html")
    write_markdown(page, folder.path / "information.md")
    write_picture(worth, folder.path / "curves.svg")


def _print_plan(wanted: Efficiency, console: Console) -> None:
    """Sizes, trainings, and about how long they take."""
    parts, job = parts_of(wanted), wanted.job
    for row in parts:
        first = row[0]
        each = (
            ""
            if len(row) == 1
            else f" (seed 0; {min(p.tokens for p in row):,} to {max(p.tokens for p in row):,} of all)"
        )
        console.print(
            f"size {first.size + 1}   {len(first.documents):,} documents, {first.tokens:,} to learn from{each}: {first.steps:,} steps of "
            f"{job.batches.rows} × {job.length} tokens, {first.steps / first.batches.steps_per_epoch:.3g} epochs"
        )
    trainings = list(trainings_of(wanted))
    # Of the optimizer steps that some labels take; the others, hard and smoothed, ask no teacher.
    steps = {kind: sum(parts[size][0].steps for labels, size in trainings if labels == kind) for kind, _ in trainings}
    found = estimate(
        job.teacher.model,
        wanted.new_student(0),
        tokens=job.batches.rows * job.length,
        micro_rows=job.settings.micro_rows or job.batches.rows,
        length=job.length,
        dtype=job.settings.dtype,
        device=this_device().type,
    )
    alone = ("hard", "smoothed")
    seconds = sum(
        count * (found.seconds_hard if kind in alone else found.seconds_soft) for kind, count in steps.items()
    )
    console.print(
        f"plan     {len(trainings) * wanted.seeds} trainings ({len(trainings)} with each of {wanted.seeds} seeds), "
        f"{sum(steps.values()) * wanted.seeds:,} steps; about {_time(seconds * wanted.seeds)}, measuring not counted"
    )


def _print_worth(worth: LabelWorth, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, title in enumerate(("", "learned from", "nats", "right", "times less text")):
        table.add_column(title, justify="left" if number == 0 else "right", no_wrap=True)
    last = ""
    for name, *cells in rows_in_words(worth):
        table.add_row("" if name == last else name, *cells)
        last = name
    console.print()
    console.print(table)
    console.print(
        f"[dim]teacher {worth.teacher['nats_per_token'].value:.3f} nats, {worth.teacher['accuracy'].value:.1%}; means over {worth.seeds} "
        f"seed{'s' * (worth.seeds > 1)}, held out {worth.teacher['accuracy'].n} documents; 95 % intervals in brackets (of three "
        "seeds rather 80 %, where seeds differ more than documents)[/dim]\n"
    )
    held, gap = worth.held, worth.held["gap_bits"]
    console.print(
        f"labels   hide {held['entropy_bits'].value:.2f} bits a token (entropy); the teacher's surprise minus that is {gap.value:+.2f} "
        f"({gap.low:+.2f} to {gap.high:+.2f}): above 0 is invented. They take {held['noise'].value:.2f} of noise out of the gradient"
    )
    least, most = (worth.equivalents[place].value for place in (0, -1))
    console.print(
        f"gradient as good ({GRADIENT_ERROR:.0%} off) takes {least:,.0f} hard labels beside the student of the smallest size, {most:,.0f} "
        "beside the largest's"
    )
    console.print(verdict(worth))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
