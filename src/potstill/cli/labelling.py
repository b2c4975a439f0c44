"""Labelling with a person watching."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from potstill.errors import StoreError
from potstill.recipe import Recipe, build_labelling, labels_folder
from potstill.recipe.labelling import Labelling
from potstill.soft_labels import SUMS, Mirror, Store, copy_of, is_url, label
from potstill.soft_labels import Progress as Done
from potstill.soft_labels.planning import plan_of

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Place:
    """Where the labels go: a folder and, where that is the copy of a store at a URL, the two together."""

    folder: Path
    mirror: Mirror | None

    def __str__(self) -> str:
        return str(self.folder) if self.mirror is None else self.mirror.url

    def sent(self, passes: Iterator[Done]) -> Iterator[Done]:
        """These passes; whatever is whole in the folder is at the URL too."""
        if self.mirror is not None:
            self.mirror.send()
        for done in passes:
            yield done
            if self.mirror is not None:
                self.mirror.send()
        if self.mirror is not None:
            self.mirror.send()


def place_of(recipe: Recipe, out: str | None) -> Place:
    """Where `--out` says, or the recipe."""
    url = out or recipe.teacher.labels
    if url is not None and is_url(url):
        return Place(copy_of(url), Mirror(url))
    return Place(Path(out) if out is not None else labels_folder(recipe, Path("runs") / recipe.name), None)


def label_here(recipe: Recipe, place: Place, processes: Accelerator, console: Console) -> None:
    """By this process, or as one of several that were started together."""
    many = processes.num_processes
    if place.mirror is not None:
        if many > 1:
            raise StoreError(f"several processes can't send to {place}: label into a folder, or with --workers")
        place.mirror.fetch()
    with processes.main_process_first():
        built = build_labelling(recipe, place.folder, say=saying(console))
    passes = label(built.teacher, built.corpus, built.folder, is_one_of_many=many > 1)
    last, seconds = watched(place.sent(passes), many, console, counts_all=False)
    processes.wait_for_everyone()
    _print_labelled(place, last, seconds, many, console)


def label_shared(recipe: Recipe, place: Place, workers: int, address: str | None, console: Console) -> None:
    """By workers, which Ray places on the machines of a cluster, or on this one."""
    from potstill.cli.crews import gathered
    from potstill.workers import check_ray, label_with

    check_ray()
    if place.mirror is not None:
        place.mirror.fetch()
    corpus = build_labelling(recipe, place.folder, say=saying(console), is_marked_here=False).corpus
    sharing = max(1, min(workers, len(plan_of(corpus, Store(place.folder)))))  # a shard is one worker's
    with gathered(recipe.teacher.model, workers, address, saying(console)) as crew:
        passes = place.sent(label_with(crew, corpus, place.folder))
        last, seconds = watched(passes, sharing, console, counts_all=True)
    _print_labelled(place, last, seconds, 1, console)


def watched(passes: Iterator[Done], sharing: int, console: Console, *, counts_all: bool) -> tuple[Done | None, float]:
    """(the last pass, seconds); the first becomes an estimate of all of them.

    Passes count what all of those who share the work have labelled, or only one of them: he then has an equal share to do.
    """
    columns = (TextColumn("[bold]labelling"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    last, last_line, is_estimated, begun = None, 0.0, False, time.perf_counter()
    with bar:
        task = bar.add_task("", total=None, figures="")
        for done in passes:
            if done.tokens and done.bytes and not is_estimated:
                is_estimated = True
                console.print(_plan(done, sharing))
            last = done
            whole = done.total if counts_all else math.ceil(done.total / sharing)
            bar.update(task, total=whole, completed=done.tokens, figures=figures(done))
            if done.tokens and not console.is_terminal and time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                left = done.seconds / done.tokens * max(0, whole - done.tokens)
                console.print(f"labelling: {done.tokens:,}/{whole:,}  {figures(done)}  {left:.0f} s left")
    return last, time.perf_counter() - begun


def _print_labelled(place: Place, last: Done | None, seconds: float, processes: int, console: Console) -> None:
    store = Store(place.folder)
    if gone := store.missing_shards:
        raise StoreError(f"{len(gone)} files of {place} were not finished, {gone[0]} among them: start again")
    if last is None:
        console.print("nothing was missing")
    else:
        by = f", as one of {processes} processes," if processes > 1 else ""
        console.print(f"[green]✓[/green] labelled {last.tokens:,} predictions{by} in {_time(seconds)}  {figures(last)}")
    console.print(
        f"labels   [bold]{escape(str(place))}[/bold]  {store.num_documents:,} documents, {store.num_tokens:,} predictions, "
        f"{store.num_bytes / max(store.num_tokens, 1):.1f} bytes each"
    )


def saying(console: Console) -> Callable[[str], None]:
    """Prints what takes a while, faintly."""
    return lambda text: console.print(f"[dim]{text} …[/dim]")


def print_plan(built: Labelling, sharing: int, console: Console) -> None:
    """Label one pass of the whole text in a folder that nobody needs, and say what all of them will take."""
    for done in label(built.teacher, built.corpus, built.folder):
        if done.tokens and done.bytes:
            console.print(_plan(done, sharing))
            console.print(figures(done))
            return
    console.print("nothing counts in the text: there is nothing to label")


def _plan(done: Done, sharing: int) -> str:
    seconds, size = done.seconds / done.tokens * done.total / sharing, done.bytes / done.tokens * done.total
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
