"""A plan in front of a person, or of a program."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from potstill.errors import RecipeError
from potstill.planning import Fleet, Measured, Need, Plan, Room, Workload, accelerator
from potstill.planning.fleet import UTILIZATION

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_MOST_TOKENS = 10**18


def fleet_of(gpu: str | None, *, count: int | None, utilization: float | None) -> Fleet | None:
    """The accelerators that the command line names; None for this machine. RecipeError where they can't be meant."""
    if gpu is None:
        for name, given in (("--count", count), ("--mfu", utilization)):
            if given is not None:
                raise RecipeError(
                    f"{name} is of accelerators, and this machine is measured as it is: add --gpu h100, or leave it out"
                )
        return None
    return Fleet(accelerator(gpu), 1 if count is None else count, UTILIZATION if utilization is None else utilization)


def tokens_of(text: str) -> int:
    """How many tokens `--text` says."""
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([kmbt]?)\s*", text.lower(), re.ASCII)
    found = None if match is None else Decimal(match[1].replace("_", "")) * _UNITS[match[2]]
    if found is None or not 1 <= found <= _MOST_TOKENS or found % 1:
        shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
        raise RecipeError(f"--text is a whole number of tokens, as 500k, 5M, 10B or 1T, to a million T, found {shown}")
    return int(found)


def print_plan_of(
    name: str, work: Workload, where: Fleet | Measured, plan: Plan, left_out: Sequence[str], console: Console
) -> None:
    """A short table of what happens, memory, disk, and what all of that rests on."""
    place = "this machine" if isinstance(where, Measured) else f"{where.count:,} × {where.accelerator.name}"
    console.print(
        f"\n[bold]{escape(name)}[/bold] on {place}: a teacher of {count(work.teacher.parameters)} parameters, a student of "
        f"{count(work.student.parameters)}, {count(work.tokens)} tokens in {work.steps:,} steps\n"
    )
    console.print(_table(where, plan))
    for stage, room in plan.memory.items():
        console.print(f"\nmemory, {stage}  {_room(room)}")
        if room.missing:
            console.print(
                f"[red]doesn't fit[/red]: {size(room.total)} are needed, {size(room.there)} are there, {size(room.missing)} too few. "
                + escape(_advice(stage, plan.advice.get(stage, [])))
            )
    disk = ", ".join(f"{size(found)} {what}" for what, found in plan.disk.items())
    console.print(f"\ndisk  {size(sum(plan.disk.values()))} at most: {disk}\n")
    for note in plan.notes:
        console.print(f"[dim]{escape(note)}[/dim]")
    if left_out:
        console.print(f"[yellow]left out: {', '.join(left_out)}[/yellow]")


def print_json(name: str, work: Workload, where: Fleet | Measured, plan: Plan, left_out: Sequence[str]) -> None:
    """The same, whole, as one JSON object: seconds, bytes, operations, the currency of the price."""
    found = {
        "name": name,
        "where": {"measured": asdict(where)} if isinstance(where, Measured) else {"fleet": asdict(where)},
        "workload": asdict(work),
        "phases": [
            {
                "stage": one.phase.stage,
                "name": one.phase.name,
                "tokens": one.phase.tokens,
                "flops": one.flops,
                "seconds": one.seconds,
                "bound": one.bound,
                "cost": one.cost,
            }
            for one in plan.phases
        ],
        "seconds": plan.seconds,
        "device_hours": plan.devices * plan.seconds / 3_600,
        "flops": plan.flops,
        "cost": plan.cost,
        "memory": {
            stage: {"needed": room.needed, "there": _finite(room.there), "missing": room.missing}
            for stage, room in plan.memory.items()
        },
        "fits": not any(room.missing for room in plan.memory.values()),
        "advice": plan.advice,
        "configuration": plan.how,
        "disk": plan.disk,
        "notes": plan.notes,
        "left_out": list(left_out),
    }
    typer.echo(json.dumps(found))


def count(number: int | float) -> str:
    """1.2 B, 34.5 M: three digits."""
    for unit, name in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes, in thousands."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, name, least in ((86_400, "days", 3), (3_600, "h", 1.5), (60, "min", 1.5)):
        if seconds >= least * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} s"


def _table(where: Fleet | Measured, plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    is_fleet = isinstance(where, Fleet)
    table.add_column("")
    titles = [
        "tokens",
        "FLOPs",
        "time",
        *(["device hours", "mostly"] if is_fleet else []),
        *(["cost"] if plan.cost is not None else []),
    ]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for one in plan.phases:
        cells = [count(one.phase.tokens) if one.phase.tokens else "", _flops(one.flops), duration(one.seconds)]
        cells += [f"{plan.devices * one.seconds / 3_600:,.2f}", one.bound] if is_fleet else []
        cells += [] if one.cost is None else [f"{one.cost:,.2f}"]
        table.add_row(f"{one.phase.stage}: {one.phase.name}", *cells)
    cells = ["", _flops(plan.flops), duration(plan.seconds)]
    cells += [f"{plan.devices * plan.seconds / 3_600:,.2f}", ""] if is_fleet else []
    cells += [] if plan.cost is None else [f"{plan.cost:,.2f}"]
    table.add_row("all", *cells, style="bold")
    return table


def _flops(found: float) -> str:
    return f"{found:.2e}" if found else ""


def _room(room: Room) -> str:
    parts = ", ".join(f"{size(found)} {what}" for what, found in sorted(room.needed.items(), key=lambda one: -one[1]))
    there = "" if _finite(room.there) is None else f" of {size(room.there)}"
    return f"{size(room.total)}{there}: {parts}"


def _advice(need: Need, found: Sequence[str]) -> str:
    if found:
        return "It fits with " + ", or ".join(found)
    if need in ("label", "measuring"):
        models = "the teacher is" if need == "label" else "teacher and student are"
        return f"Here {models} whole on each device, however many there are: smaller models or accelerators with more memory would do"
    return "A smaller teacher or student, a shorter training.length, or accelerators with more memory would do"


def _finite(number: float) -> float | None:
    return None if number == float("inf") else number
