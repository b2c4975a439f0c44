"""`potstill preview RECIPE`: the text as the student will see it, token by token, with what counts in colour."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill.cli.options import RecipeArgument, SetOption


def preview(
    recipe: RecipeArgument,
    sets: SetOption = None,
    documents: Annotated[int, typer.Option(help="How many documents.", min=1)] = 3,
    tokens: Annotated[int, typer.Option(help="At most so many tokens of each.", min=1)] = 200,
) -> None:
    """Show what will be learned: learned tokens on green and cyan in turn, tokens that are only read dim."""

    from potstill.cli.console import new_console
    from potstill.data import check_learnable
    from potstill.data import preview as coloured
    from potstill.recipe import load_recipe, read_corpus, tokenizer_of

    decoded = load_recipe(recipe, sets=sets or [])
    tokenizer = tokenizer_of(decoded)
    corpus = read_corpus(decoded.data, tokenizer, most=documents)
    console = new_console()
    for text in coloured(corpus, tokenizer, documents=documents, tokens=tokens):
        console.print(text)
        console.print()
    check_learnable(corpus)
