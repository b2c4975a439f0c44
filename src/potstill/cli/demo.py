"""`potstill demo`: the main job on what ships with the package, offline, in under three minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("runs/demo"),
) -> None:
    """Distil the pocket teacher that ships with potstill into half its size, on your Python's own source, beside controls."""

    from potstill.cli.console import new_console
    from potstill.cli.running import run_recipe
    from potstill.recipe import demo_recipe

    console = new_console()
    console.print(
        "The [bold]pocket teacher[/bold] (a small model of Python code) marks your Python's own standard library with its\n"
        "whole distribution over next tokens; a [bold]student[/bold] with half of its layers learns from that. Beside it the "
        "same\nstudent learns from the text alone (hard labels): once on as many tokens, once for as long.\n"
    )
    run_recipe(demo_recipe(out), out, console)
