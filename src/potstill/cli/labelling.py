"""Labelling with a person watching."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from accelerate import Accelerator
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from potstill.errors import StoreError
from potstill.recipe.labelling import Labelling
from potstill.soft_labels import SUMS, Store, label
from potstill.soft_labels import Progress as Done

_SECONDS_BETWEEN_LINES = 10.0


def watch_labelling(built: Labelling, processes: Accelerator, console: Console) -> None:
    """Label; the first pass of the teacher becomes an estimate of all of them."""
    columns = (TextColumn("[bold]labelling"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    last, last_line, is_estimated, begun = None, 0.0, False, time.perf_counter()
    with bar:
        task = bar.add_task("", total=None, figures="")
        for done in label(built.teacher, built.corpus, built.folder, is_one_of_many=processes.num_processes > 1):
            if done.tokens and done.bytes and not is_estimated:
                is_estimated = True
                console.print(_plan(done, processes.num_processes))
            last = done
            bar.update(task, total=done.total, completed=done.tokens, figures=figures(done))
            if done.tokens and not console.is_terminal and time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                left = done.seconds / max(done.tokens, 1) * (done.total - done.tokens)
                console.print(f"labelling: {done.tokens:,}/{done.total:,}  {figures(done)}  {left:.0f} s left")
    processes.wait_for_everyone()
    store = Store(built.folder)
    if gone := store.missing_shards:
        raise StoreError(f"{len(gone)} files of {built.folder} were not finished, {gone[0]} among them: start again")
    if last is None:
        console.print("nothing was missing")
    else:
        seconds = time.perf_counter() - begun
        console.print(f"[green]✓[/green] labelled {last.tokens:,} predictions in {_time(seconds)}  {figures(last)}")
    console.print(
        f"labels   [bold]{escape(str(built.folder))}[/bold]  {store.num_documents:,} documents, {store.num_tokens:,} predictions, "
        f"{store.num_bytes / max(store.num_tokens, 1):.1f} bytes each"
    )


def saying(console: Console) -> Callable[[str], None]:
    """Prints what takes a while, faintly."""
    return lambda text: console.print(f"[dim]{text} …[/dim]")


def print_plan(built: Labelling, processes: Accelerator, console: Console) -> None:
    """Label one pass of the whole text in a folder that nobody needs, and say what all of them will take."""
    for done in label(built.teacher, built.corpus, built.folder):
        if done.tokens and done.bytes:
            console.print(_plan(done, processes.num_processes))
            console.print(figures(done))
            return
    console.print("nothing counts in the text: there is nothing to label")


def _plan(done: Done, processes: int) -> str:
    seconds, size = done.seconds / done.tokens * done.total / processes, done.bytes / done.tokens * done.total
    return f"plan     {done.total:,} predictions to label: about {_time(seconds)} and at most {size / 2**20:,.1f} MiB"


def figures(done: Done) -> str:
    """Speed, and what the teacher is like so far."""
    if not done.tokens:
        return ""
    means = dict(zip(SUMS, (done.sums / done.tokens).tolist(), strict=True))
    return (
        f"{done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s  teacher: perplexity {math.exp(min(means['nll'], 700)):,.2f}, "
        f"accuracy {means['hits']:.1%}, entropy {means['entropy'] / math.log(2):.2f} bits"
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
