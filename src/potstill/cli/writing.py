"""Writing with a person watching."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from potstill.errors import RecipeError, RunDirectoryError, ServerError
from potstill.recipe import BuiltWriting, WritingRecipe
from potstill.runs import manifest
from potstill.writing import (
    Journal,
    LocalWriter,
    Price,
    Progress,
    Selected,
    Totals,
    Writer,
    answers,
    fingerprint_of_prompts,
    rows,
    select,
    totals,
    write,
    write_rows,
)

_SECONDS_BETWEEN_LINES = 10.0
_CHARACTERS_A_TOKEN = 4


def check_can_share(recipe: WritingRecipe, *, is_now: bool) -> None:
    """RecipeError where workers would be of no use; MissingExtraError where they are wanted now and Ray is not installed."""
    if recipe.writer.kind == "server":
        raise RecipeError(
            "--workers shares a model that runs here among several, and a server answers many at once by itself: raise "
            f"writer.concurrency ({recipe.writer.concurrency}) instead"
        )
    if is_now:
        from potstill.workers import check_ray

        check_ray()


@contextmanager
def writer_of(
    built: BuiltWriting, workers: int | None, address: str | None, say: Callable[[str], None]
) -> Iterator[Writer]:
    """The model that was loaded or the server; with workers, what they write."""
    if workers is None:
        yield built.writer
        return
    from potstill.cli.crews import gathered
    from potstill.workers import CrewWriter

    teacher = built.identity["teacher"]
    assert isinstance(built.writer, LocalWriter)
    assert isinstance(teacher, Mapping)
    with gathered(built.recipe.writer.model, workers, address, say) as crew:
        yield CrewWriter(crew, built.writer, str(teacher["fingerprint"]), str(teacher["tokenizer"]))


def watch_writing(built: BuiltWriting, writer: Writer, journal: Journal, console: Console) -> Progress:
    """Write what is missing, with a bar on a terminal and a line now and then elsewhere; what this call did."""
    columns = (TextColumn("[bold]writing"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
    progress, last_line = Progress(0), time.monotonic()
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, figures="")
        for progress in write(built.prompts, writer, journal):
            figures = _figures(progress)
            bar.update(task, total=progress.total, completed=progress.done + progress.unanswered, figures=figures)
            if not console.is_terminal and time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                console.print(f"writing: {figures}")
    console.print(f"[green]✓[/green] wrote {_figures(progress)}" if progress.total else "nothing was missing")
    return progress


def finish_writing(built: BuiltWriting, journal: Journal, folder: Path, progress: Progress, console: Console) -> None:
    """Filter, write rows and manifest, say what was kept. ServerError where prompts are still without an answer."""
    selected = select(built.prompts, journal, built.selection)
    is_sent = built.recipe.output.prompt == "sent"
    steps = built.steps
    found = rows(built.prompts, journal, selected, built.selection, sent=is_sent, steps=steps)
    number = write_rows(folder / "written.jsonl", found)
    listed = 0
    if built.recipe.writer.kind == "server" and built.recipe.writer.top_logprobs:
        listed = write_rows(folder / "answers.jsonl", answers(built.prompts, journal, selected, built.selection))
    done, price = totals(built.prompts, journal), _price(built)
    _write_json(folder / "manifest.json", _manifest(built, done, selected, number))
    console.print(_table(done, selected, None if price is None else done.cost(price)))
    console.print(
        f"rows     [bold]{escape(str(folder / 'written.jsonl'))}[/bold]  {number:,}, to learn from: data.source"
    )
    if (cut := selected.refused.get("cut", 0)) > done.samples / 2:
        longest = built.recipe.sampling.max_new_tokens
        console.print(
            f"[yellow]cut      {cut:,} of {done.samples:,} texts were not at their end after {longest:,} tokens, and are refused: raise "
            f"sampling.max_new_tokens (with a folder of its own, -o){_keeping_cut(built)}[/yellow]"
        )
    if listed:
        path = folder / "answers.jsonl"
        console.print(f"labels   [bold]{escape(str(path))}[/bold]  {listed:,} answers, for potstill import-labels")
    if progress.unanswered:
        raise ServerError(
            f"{progress.unanswered:,} of {len(built.prompts):,} prompts have no answer yet ({progress.reason}): the same command asks "
            "them again"
        )


def print_writing_plan(built: BuiltWriting, path: Path, console: Console) -> None:
    """How many prompts are done, and about how many tokens and how much money the others will take."""
    done = None
    if path.exists():
        with Journal(path, built.identity) as journal:
            done = totals(built.prompts, journal)
    missing = len(built.prompts) - (done.written if done is not None else 0)
    best_of, most = built.recipe.sampling.best_of, built.recipe.sampling.max_new_tokens
    each = done.tokens / done.samples if done is not None and done.samples else float(most)
    share = missing / len(built.prompts)
    read, written = int(_prompt_tokens(built) * best_of * share), int(each * best_of * missing)
    console.print(
        f"prompts  {len(built.prompts):,}, of which {len(built.prompts) - missing:,} are written and {missing:,} are not"
    )
    console.print(
        f"plan     about {read:,} tokens to read and {'about' if done is not None and done.samples else 'at most'} {written:,} to write "
        f"({best_of} × {missing:,} samples of {each:,.0f})"
    )
    if (price := _price(built)) is not None:
        console.print(
            f"cost     {(read * price.read + written * price.written) / 1e6:,.4f} in the currency of writer.price"
        )


def _prompt_tokens(built: BuiltWriting) -> int:
    """Of all prompts, once each: counted where the tokenizer is here, guessed by their length where it isn't."""
    if isinstance(built.writer, LocalWriter):
        return sum(len(built.writer.tokens_of(prompt)) for prompt in built.prompts)
    texts = (p.sent if isinstance(p.sent, str) else "".join(t["content"] for t in p.sent) for p in built.prompts)
    return sum(len(text) // _CHARACTERS_A_TOKEN + 1 for text in texts)


def _keeping_cut(built: BuiltWriting) -> str:
    """The other way out for texts that were cut; chats and tasks in two steps have none, since they need their end."""
    writer, output = built.recipe.writer, built.recipe.output
    is_chat = built.recipe.prompts.chat if writer.kind == "local" else writer.endpoint == "chat"
    return (
        ""
        if is_chat or output.steps is not None
        else ", or keep them without an end: output.cut = true, which asks nobody again"
    )


def _price(built: BuiltWriting) -> Price | None:
    found = built.recipe.writer.price if built.recipe.writer.kind == "server" else None
    return None if found is None else Price(found.read, found.written)


def _figures(progress: Progress) -> str:
    speed = progress.tokens / max(progress.seconds, 1e-9)
    left = f", {progress.unanswered:,} without an answer" if progress.unanswered else ""
    return f"{progress.done:,}/{progress.total:,} prompts, {progress.tokens:,} tokens, {speed:,.0f} tokens/s{left}"


def _table(done: Totals, selected: Selected, cost: float | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("prompts", f"{done.prompts:,}")
    table.add_row("written", f"{done.written:,}", f"{done.samples:,} samples")
    table.add_row("[bold]kept[/bold]", f"[bold]{len(selected.kept):,}[/bold]")
    for name, number in selected.refused.items():
        table.add_row(f"refused: {name}", f"{number:,}")
    table.add_row("tokens read", f"{done.prompt_tokens:,}")
    table.add_row("tokens written", f"{done.tokens:,}")
    if done.requests:
        table.add_row("requests", f"{done.requests:,}")
    table.add_row("seconds", f"{done.seconds:,.1f}")
    if cost is not None:
        table.add_row("cost", f"{cost:,.4f}")
    return table


def _manifest(built: BuiltWriting, done: Totals, selected: Selected, number: int) -> dict[str, object]:
    price = _price(built)
    return manifest(
        {
            **built.identity,
            "prompts": {"source": built.recipe.prompts.source, "fingerprint": fingerprint_of_prompts(built.prompts)},
            "recipe": built.recipe.model_dump(mode="json", exclude_none=True),
            "counts": {**asdict(done), "kept": len(selected.kept), "rows": number, "refused": selected.refused},
            "cost": None if price is None else done.cost(price),
        }
    )


def _write_json(path: Path, found: Mapping[str, object]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        raise RunDirectoryError(f"can't write {path}: {error.strerror or error}") from error
