"""`potstill label RECIPE`: the teacher's soft labels on disk, once, for as many students as you like."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from potstill.cli.options import RayOption, RecipeArgument, SetOption, WorkersOption
from potstill.errors import RecipeError

_Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        help="The labels' own folder, or a URL (s3://...). Default: teacher.labels, or runs/NAME/soft_labels.",
        show_default=False,
    ),
]


def label(
    recipe: RecipeArgument,
    out: _Out = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    sets: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate time and bytes; store nothing.")] = False,
) -> None:
    """Store the teacher's soft labels of the text that a RECIPE learns from; again after a kill, it labels what is missing."""
    from potstill.cli.console import new_console
    from potstill.cli.crews import check_place
    from potstill.cli.labelling import label_here, label_shared, place_of, print_plan, saying
    from potstill.models import join_processes
    from potstill.recipe import build_labelling, load_recipe

    decoded = load_recipe(recipe, sets=sets or [])
    processes = join_processes()
    check_place(ray, workers)
    if workers is not None and processes.num_processes > 1:
        raise RecipeError("these processes share the work already: start `potstill label --workers` by itself, once")
    console = new_console()
    console.quiet = not processes.is_main_process
    if dry_run:
        with TemporaryDirectory() as scratch:
            built = build_labelling(decoded, Path(scratch), say=saying(console))
            print_plan(built, workers or processes.num_processes, console)
        return
    place = place_of(decoded, out)
    if workers is None:
        label_here(decoded, place, processes, console)
    else:
        label_shared(decoded, place, workers, ray, console)
