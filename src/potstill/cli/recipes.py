"""`potstill recipes`: starter recipes, and the schema that editors complete recipes with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# What is typed with a starter that is not for `distill`: first a look, then the work.
_VERBS = {"write": ("write --dry-run", "write"), "demo": ("compress --dry-run", "compress")}


def recipes(
    name: Annotated[str | None, typer.Argument(help="Write this starter recipe; without it, list them.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to. Default: NAME.toml here.", show_default=False)
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes.")] = False,
) -> None:
    """List the starter recipes, or write one to begin from."""
    import json

    from rich.markup import escape
    from rich.table import Table

    from potstill.cli.console import new_console
    from potstill.recipe import json_schema, starter_recipes, write_starter

    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    console = new_console()
    if name is not None:
        path = out or Path(f"{name}.toml")
        write_starter(name, path)
        shown = escape(str(path))
        first, then = _VERBS.get(name, ("check", "distill"))
        console.print(
            f"wrote [bold]{shown}[/bold]: edit it, then `potstill {first} {shown}` and `potstill {then} {shown}`"
        )
        return
    table = Table(box=None, padding=(0, 2))
    table.add_column("recipe", style="bold")
    table.add_column("what it does")
    for starter in starter_recipes():
        table.add_row(starter.name, starter.description)
    console.print(table)
    console.print("\n`potstill recipes NAME` writes one here, `--schema` prints the JSON schema for your editor")
