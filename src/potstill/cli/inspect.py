"""`potstill inspect STORE`: what is in a store of soft labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import SetOption


def inspect(
    store: Annotated[
        str, typer.Argument(help="A folder that `potstill label` made, or its URL (s3://...).", show_default=False)
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="The recipe it was made with: the text to look at.")
    ] = None,
    document: Annotated[int, typer.Option(help="Which document of the recipe's text to look at.", min=0)] = 0,
    tokens: Annotated[int, typer.Option(help="How many of its predictions.", min=1)] = 40,
    html: Annotated[Path | None, typer.Option(help="Also write them as a page: point at a token.")] = None,
    sets: SetOption = None,
) -> None:
    """Bytes, entropy, information of stored soft labels; with a recipe, a document with the teacher's alternatives for each token."""
    from potstill.cli.console import new_console
    from potstill.cli.inspecting import print_description, print_document, write_document
    from potstill.soft_labels import store_at

    console = new_console()
    opened = store_at(store)
    print_description(opened, console)
    if recipe is None:
        return
    from potstill.cli.inspecting import look_at

    looked = look_at(opened, recipe, sets or [], document=document, tokens=tokens)
    print_document(looked, console)
    if html is not None:
        write_document(looked, html)
        console.print(f"\npage     [bold]{html}[/bold]")
