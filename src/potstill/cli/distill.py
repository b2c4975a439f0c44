"""`potstill distill RECIPE`: the whole run a recipe describes, resumed where it was killed."""

from __future__ import annotations

from pathlib import Path

from potstill.cli.options import OutOption, RecipeArgument, SetOption


def distill(recipe: RecipeArgument, out: OutOption = None, sets: SetOption = None) -> None:
    """Distil a student as the RECIPE says, beside its controls; the same command again goes on after a kill."""

    from potstill.cli.console import new_console
    from potstill.cli.fellows import num_fellows
    from potstill.cli.running import run_recipe
    from potstill.cli.staging import run_stages
    from potstill.errors import RecipeError
    from potstill.recipe import load_recipe

    decoded = load_recipe(recipe, sets=sets or [])
    folder, console = out or Path("runs") / decoded.name, new_console()
    if decoded.stages is None:
        run_recipe(decoded, folder, console)
    elif num_fellows() > 1:
        raise RecipeError(
            f"a run of stages is one process's work, and {num_fellows()} were begun for it: start it without accelerate launch, or each "
            "stage as a recipe of its own"
        )
    else:
        run_stages(decoded, folder, console)
