"""`potstill distill RECIPE`: the whole run a recipe describes, resumed where it was killed."""

from __future__ import annotations

from pathlib import Path

from potstill.cli.options import OutOption, RecipeArgument, SetOption


def distill(recipe: RecipeArgument, out: OutOption = None, sets: SetOption = None) -> None:
    """Distil a student as the RECIPE says, beside its controls; the same command again goes on after a kill."""

    from potstill.cli.console import new_console
    from potstill.cli.running import run_recipe
    from potstill.cli.staging import run_stages
    from potstill.recipe import load_recipe

    decoded = load_recipe(recipe, sets=sets or [])
    folder, console = out or Path("runs") / decoded.name, new_console()
    if decoded.stages is None:
        run_recipe(decoded, folder, console)
    else:
        run_stages(decoded, folder, console)
