"""`potstill label RECIPE`: the teacher's soft labels on disk, once, for as many students as you like."""

from __future__ import annotations

from pathlib import Path

from potstill.cli.options import OutOption, RecipeArgument, SetOption


def label(recipe: RecipeArgument, out: OutOption = None, sets: SetOption = None) -> None:
    """Store the teacher's soft labels of the text that a RECIPE learns from; again after a kill, it labels what is missing."""
    from accelerate import Accelerator

    from potstill.cli.console import new_console
    from potstill.cli.labelling import watch_labelling
    from potstill.recipe import build_labelling, labels_folder, load_recipe

    decoded = load_recipe(recipe, sets=sets or [])
    folder = out or labels_folder(decoded, Path("runs") / decoded.name)
    processes = Accelerator()
    console = new_console()
    console.quiet = not processes.is_main_process
    with processes.main_process_first():
        built = build_labelling(decoded, folder, say=lambda text: console.print(f"[dim]{text} …[/dim]"))
    watch_labelling(built, processes, console)
