"""`potstill demo`: the main job on what ships with the package, offline, in under three minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("runs/demo"),
) -> None:
    """Find the smallest student of the pocket teacher that ships with potstill, on your Python's own source, beside its control."""

    from potstill.cli.compressing import run_search
    from potstill.cli.console import new_console
    from potstill.recipe import demo_recipe

    console = new_console()
    console.print(
        "The [bold]pocket teacher[/bold] (a small model of Python code) marks your Python's own standard library with its\n"
        "whole distribution over next tokens. Students with less of its layers and channels learn from that: wanted is\n"
        "the [bold]smallest that keeps 85 %[/bold] of its accuracy. Beside it the same student learns from the text alone.\n"
    )
    run_search(demo_recipe(out), out, console)
