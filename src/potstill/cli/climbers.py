"""What a person sees of a search: a table of candidates that fills, with the step, tokens a second and time left; lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from potstill.cli.console import next_step
from potstill.reports.sentences import advice_on, compression_verdict
from potstill.runs import Stage
from potstill.search import Climbing, Decided, Ladder, Redone, Search
from potstill.search.compression import Event
from potstill.soft_labels import Progress

_SECONDS_BETWEEN_LINES = 10.0


class Watching:
    """A context in which events are shown."""

    def __init__(self, console: Console, search: Search) -> None:
        self.console, self.search = console, search
        self._ladder: Ladder | None = None
        self._now, self._doing = "", ""
        self._last_line, self._speed = 0.0, 0.0
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._shown)

    def __enter__(self) -> Watching:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def show(self, event: Event) -> None:
        """One event."""
        match event:
            case Stage(what):
                self._doing = what
                self._line(f"[dim]{escape(what)} …[/dim]")
            case Redone(step, why):
                self._line(f"[yellow]{step}: done again, because {escape(why)}[/yellow]", always=True)
            case Decided(what):
                self._line(escape(what), always=True)
            case Ladder():
                self._ladder = event
            case Progress():
                self._labelled(event)
            case Climbing():
                self._climbed(event)

    def _labelled(self, event: Progress) -> None:
        if not event.tokens:
            return
        rate = event.tokens / max(event.seconds, 1e-9)
        left = (event.total - event.tokens) / max(rate, 1e-9)
        self._tick(f"marked {event.tokens:,} of {event.total:,} tokens  {rate:,.0f} tokens/s  {left:,.0f} s left")

    def _climbed(self, event: Climbing) -> None:
        step = event.step
        now = step.tokens / max(step.seconds, 1e-9)
        self._speed = now if self._speed == 0 else 0.9 * self._speed + 0.1 * now
        left = (event.of - step.index) * step.tokens / self._speed
        self._now = event.name
        self._tick(
            f"{event.name}: step {step.index}/{event.of}  loss {step.loss:.3f}  {self._speed:,.0f} tokens/s  {left:,.0f} s left"
        )

    def _tick(self, line: str) -> None:
        self._doing = line
        if time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._line(escape(line))

    def _line(self, line: str, *, always: bool = False) -> None:
        if always or not self.console.is_terminal:
            self.console.print(line)

    def _shown(self) -> Group:
        parts: list[Any] = [] if self._ladder is None else [table_of(self._ladder, self.search, now=self._now)]
        return Group(*parts, Text(self._doing, style="dim"))


def table_of(ladder: Ladder, search: Search, *, now: str = "") -> Table:
    """The candidates, the largest first, as far as each has come."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "not embeddings", "learned", "reaches, of the bar", "chance"):
        table.add_column(title, justify="left" if not title else "right")
    for one in sorted(ladder.candidates, key=lambda each: -each.parameters):
        standing = ladder.standings.get(one.name)
        if standing is None:
            continue
        learned = f"{search.rungs[standing.rungs - 1][-1]:.0%}" if standing.rungs else "–"
        reaches = "–" if standing.reaches is None else f"{standing.reaches[0]:.1%} ± {2 * standing.reaches[1]:.1%}"
        chance = "–" if standing.chance is None else f"{standing.chance:.0%}"
        if standing.judged is not None:
            chance = "clears it" if standing.judged else "misses it"
        style = "bold" if one.name == now else None if standing.chance is None or standing.chance >= 0.1 else "dim"
        table.add_row(one.name, f"{one.parameters / 1e6:.2f} M", learned, reaches, chance, style=style)
    return table


def print_outcome(found: Mapping[str, Any], speeds: Mapping[str, Any], out: Path, console: Console) -> None:
    """The verdict in a sentence, the student beside its controls, and where it lies."""
    sizes = found["sizes"]
    share = sizes["distilled"]["non_embedding"] / sizes["teacher"]["non_embedding"]
    console.print()
    console.print(f"[bold {'green' if found['holds'] else 'yellow'}]{escape(compression_verdict(found))}[/]\n")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("held-out text", "student", "hard labels", "untouched", "four bits"):
        table.add_column(title, justify="left" if title == "held-out text" else "right")
    for place, verdict in enumerate(found["verdicts"]):
        rows = [found["verdicts"], *(found["controls"].get(name) for name in ("hard_labels", "untouched"))]
        rows.append(None if found["int4"] is None else found["int4"]["verdicts"])
        table.add_row(escape(verdict["bar"]), *(_cell(None if row is None else row[place]) for row in rows))
    console.print(table)
    console.print(
        f"\nsize     {share:.0%} of the teacher's parameters that are not embeddings "
        f"({sizes['distilled']['non_embedding'] / 1e6:.2f} M of {sizes['teacher']['non_embedding'] / 1e6:.2f} M)"
    )
    if speeds:
        fast, slow = (speeds[name]["decode_tokens_per_second"] for name in ("distilled", "teacher"))
        console.print(f"speed    writes {fast:,.0f} tokens/s, the teacher {slow:,.0f} ({fast / slow:.2f} ×)")
    console.print(
        f"cost     {found['cost']['multiple']:.2f} × the training of this student alone; {found['cost']['trained']} candidates trained"
    )
    console.print(
        f"student  [bold]{escape(str(out))}/student[/bold]  (loads with AutoModelForCausalLM.from_pretrained)"
    )
    if found["int4"] is not None and found["int4"]["holds"]:
        console.print(
            f"in 4 bit [bold]{escape(str(out))}/student-int4[/bold]  ({found['int4']['bytes'] / 1e6:,.1f} MB)"
        )
    if advice := advice_on(found):
        console.print(f"advice   {escape(advice)}")
    console.print(f"report   [bold]{escape(str(out))}/report.html[/bold]")
    console.print(escape(next_step(out)), soft_wrap=True)


def _cell(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "–"
    form = "{:.3g}" if verdict["absolute"] else "{:.1%}"
    value = form.format(verdict["value"])
    if verdict["low"] is None:
        return value
    return f"{value}\n[dim]{form.format(verdict['low'])}–{form.format(verdict['high'])}[/dim]"
