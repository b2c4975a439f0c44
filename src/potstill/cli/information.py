"""`potstill information RECIPE`: what soft labels are worth: how much less text they need than hard ones, and what of it is knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import RecipeArgument, SetOption

CurvesOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder of the curves. Default: runs/NAME-information.", show_default=False),
]
SizesOption = Annotated[int, typer.Option(min=2, help="Sizes of text; each is in all larger ones.")]
FactorOption = Annotated[float, typer.Option(min=1.05, help="How many times larger each size is than the one before.")]
LargestOption = Annotated[
    int | None,
    typer.Option(
        min=2, help="Of the largest size (of a classifier: texts). Default: all of the text.", show_default=False
    ),
]
SeedsOption = Annotated[
    int, typer.Option(min=1, help="Students of each kind of labels and size. More can be added later.")
]
ControlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        "-c",
        help="Only these controls, or none: argmax, smoothed, permuted. Default: all.",
        show_default=False,
    ),
]


def information(
    recipe: RecipeArgument,
    out: CurvesOption = None,
    sizes: SizesOption = 5,
    factor: FactorOption = 2.0,
    tokens: LargestOption = None,
    seeds: SeedsOption = 3,
    controls: ControlOption = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Controls at every size, not at the largest alone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sizes, trainings and time; train nothing.")] = False,
    sets: SetOption = None,
) -> None:
    """Learn by soft and by hard labels from several sizes of the text; tell how much less of it soft labels need, beside controls.

    The same command again goes on after a kill. training.epochs reads each size as often as the others; steps or tokens, as long.
    """
    from potstill.cli.console import new_console
    from potstill.cli.learning import run_curves
    from potstill.errors import RecipeError
    from potstill.recipe import load_recipe
    from potstill.runs import CONTROLS, Control

    wanted: tuple[Control, ...] = tuple(one for one in CONTROLS if controls is None or one in controls)
    if unknown := sorted(set(controls or ()) - {*CONTROLS, "none"}):
        raise RecipeError(f"there is no control {unknown[0]!r}: choose among {', '.join(CONTROLS)}, or none")
    decoded = load_recipe(recipe, sets=sets or [])
    run_curves(
        decoded,
        out or Path("runs") / f"{decoded.name}-information",
        new_console(),
        sizes=sizes,
        factor=factor,
        largest=tokens,
        seeds=seeds,
        controls=wanted,
        everywhere=everywhere,
        dry_run=dry_run,
    )
