"""`potstill write RECIPE`: a teacher writes text from prompts, filters keep what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import OutOption, RayOption, RecipeArgument, SetOption, WorkersOption


def write(
    recipe: RecipeArgument,
    out: OutOption = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    sets: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count prompts, tokens and cost; ask nobody, write nothing.")
    ] = False,
) -> None:
    """Let a teacher write text from prompts, filtered, to learn from with `potstill distill`; again after a kill, it goes on."""
    from rich.console import Console

    from potstill.cli.console import new_console
    from potstill.cli.crews import check_place
    from potstill.cli.labelling import saying
    from potstill.cli.writing import check_can_share, finish_writing, print_writing_plan, watch_writing, writer_of
    from potstill.recipe import build_writing, load_writing
    from potstill.writing import Journal, begun_with

    decoded = load_writing(recipe, sets=sets or [])
    check_place(ray, workers)
    if workers is not None:
        check_can_share(decoded, is_now=not dry_run)
    folder = out or Path("runs") / decoded.name
    watching = Console(stderr=True)
    say = saying(watching)
    path = folder / "journal.jsonl"
    built = build_writing(decoded, say=say, begun=begun_with(path), is_written_here=workers is None)
    if dry_run:
        print_writing_plan(built, path, new_console())
        return
    with Journal(path, built.identity) as journal:
        with writer_of(built, workers, ray, say) as writer:
            progress = watch_writing(built, writer, journal, watching)
        finish_writing(built, journal, folder, progress, new_console())
