"""`potstill label RECIPE`: the teacher's soft labels on disk, once, for as many students as you like."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from potstill.cli.options import RecipeArgument, SetOption


def label(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The labels' own folder. Default: teacher.labels, or runs/NAME/soft_labels.",
            show_default=False,
        ),
    ] = None,
    sets: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate time and bytes; store nothing.")] = False,
) -> None:
    """Store the teacher's soft labels of the text that a RECIPE learns from; again after a kill, it labels what is missing."""
    from potstill.cli.console import new_console
    from potstill.cli.labelling import print_plan, saying, watch_labelling
    from potstill.models import join_processes
    from potstill.recipe import build_labelling, labels_folder, load_recipe

    decoded = load_recipe(recipe, sets=sets or [])
    folder = out or labels_folder(decoded, Path("runs") / decoded.name)
    processes = join_processes()
    console = new_console()
    console.quiet = not processes.is_main_process
    if dry_run:
        with TemporaryDirectory() as scratch:
            print_plan(build_labelling(decoded, Path(scratch), say=saying(console)), processes, console)
        return
    with processes.main_process_first():
        built = build_labelling(decoded, folder, say=saying(console))
    watch_labelling(built, processes, console)
