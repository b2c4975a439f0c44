"""`potstill plan RECIPE`: FLOPs, time, memory, disk and money, before anybody spends them."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.cli.options import RecipeArgument, SetOption

_Gpu = Annotated[
    str | None,
    typer.Option(
        help="Plan for this accelerator (h100, a100, l40s, ...), by its data sheet. Left out: this machine, by a few real steps.",
        show_default=False,
    ),
]
_Count = Annotated[int | None, typer.Option(help="How many of them, side by side. Default: 1.", show_default=False)]
_Utilization = Annotated[
    float | None,
    typer.Option("--mfu", help="The share of their peak that matmuls reach. Default: 0.4.", show_default=False),
]
_Price = Annotated[
    float | None,
    typer.Option(help="Of one accelerator (or this machine) an hour, in your currency.", show_default=False),
]
_Text = Annotated[
    str | None, typer.Option(help="Plan for a text of so many tokens, as 10B, without reading it.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


def plan(
    recipe: RecipeArgument,
    gpu: _Gpu = None,
    count: _Count = None,
    mfu: _Utilization = None,
    price: _Price = None,
    text: _Text = None,
    sets: SetOption = None,
    as_json: _Json = False,
) -> None:
    """Say what the run of a RECIPE will take, to label, to distil, to compress: here, or on accelerators that you don't have yet."""
    from transformers.utils.logging import disable_progress_bar

    from potstill.cli.console import new_console
    from potstill.cli.labelling import saying
    from potstill.cli.planning import fleet_of, print_json, print_plan_of, tokens_of
    from potstill.planning import plan_of
    from potstill.recipe import load_recipe
    from potstill.recipe.planning import build_workload, left_out
    from potstill.recipe.trying import measure_here

    fleet = fleet_of(gpu, count=count, utilization=mfu)
    decoded = load_recipe(recipe, sets=sets or [])
    tokens = None if text is None else tokens_of(text)
    console = new_console()
    disable_progress_bar()
    say = (lambda _: None) if as_json else saying(console)
    if fleet is None:
        work, where = measure_here(decoded, tokens=tokens, say=say)
    else:
        work, where = build_workload(decoded, tokens=tokens, count=fleet.count, say=say), fleet
    planned = plan_of(work, where, price=price)
    if as_json:
        print_json(decoded.name, work, where, planned, left_out(decoded))
    else:
        print_plan_of(decoded.name, work, where, planned, left_out(decoded), console)
