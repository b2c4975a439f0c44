"""What a person sees while a run goes on: a bar with loss, tokens/s and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from potstill.reports.sentences import worth_in_words
from potstill.runs import IN_WORDS, ArmStep, Event, Judged, Measured, Stage

_SECONDS_BETWEEN_LINES = 10.0
_STYLES = {"worth": "green", "unclear": "yellow", "not": "red"}


class Watching:
    """A context in which events are shown; iterate `through(events)` and they pass through unchanged."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._speed = 0.0
        self._skipped: dict[str, int] = {}

    def __enter__(self) -> Watching:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def through(self, events: Iterator[Event]) -> Iterator[Event]:
        """Show each event, then hand it on."""
        for event in events:
            match event:
                case Stage(what):
                    self.console.print(f"[dim]{what} …[/dim]")
                case ArmStep():
                    self._show_step(event)
                case Judged(worth, annealed):
                    self.console.print(f"gate     {escape(worth_in_words(worth))}", style=_STYLES[worth.verdict])
                    if annealed:
                        self.console.print("gate     alpha goes to 0 over this run (teacher.gate)")
                case Measured(name, _):
                    if name in self._tasks:
                        self._progress.remove_task(self._tasks.pop(name))
            yield event

    def _show_step(self, event: ArmStep) -> None:
        arm, step = event.arm, event.step
        now = step.tokens / max(step.seconds, 1e-9)
        self._speed = now if step.index == 1 else 0.9 * self._speed + 0.1 * now
        figures = f"loss {step.loss:.3f}  {self._speed:,.0f} tokens/s"
        if arm.annealing is not None and step.alpha is not None:
            figures += f"  alpha {step.alpha:.2f}"
        if step.written is not None:
            figures += f"  wrote {step.written.length:.0f} a text, {step.written.ended:.0%} ended"
        if step.skipped is not None:
            self._skipped[arm.name] = self._skipped.get(arm.name, 0) + 1
            name = IN_WORDS.get(arm.name, arm.name)
            self.console.print(f"[yellow]{name}: step {step.index} was left out: {escape(step.skipped)}[/yellow]")
        if arm.name in self._skipped:
            figures += f"  {self._skipped[arm.name]} left out"
        if arm.name not in self._tasks:
            self._tasks[arm.name] = self._progress.add_task(
                IN_WORDS.get(arm.name, arm.name), total=arm.steps, figures=""
            )
        self._progress.update(self._tasks[arm.name], completed=step.index, figures=figures)
        is_last = step.index == arm.steps
        if not self.console.is_terminal and (is_last or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES):
            self._last_line = time.monotonic()
            left = (arm.steps - step.index) * step.seconds
            self.console.print(
                f"{IN_WORDS.get(arm.name, arm.name)}: step {step.index}/{arm.steps}  {figures}  {left:.0f} s left"
            )
        elif is_last:
            self.console.print(f"[green]✓[/green] {IN_WORDS.get(arm.name, arm.name)}: {arm.steps} steps, {figures}")
