"""`potstill export-labels STORE`: stored soft labels as a table for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import SetOption
from potstill.errors import StoreError


def export_labels(
    store: Annotated[
        str, typer.Argument(help="A folder that `potstill label` made, or its URL (s3://...).", show_default=False)
    ],
    recipe: Annotated[
        Path, typer.Option("--recipe", "-r", help="The recipe it was made with: the text.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The Parquet file to write.", show_default=False)],
    k: Annotated[int, typer.Option(help="Tokens a prediction, of stores that have all of them.", min=1)] = 64,
    sets: SetOption = None,
) -> None:
    """Write stored labels as Parquet (input_ids, labels, top_ids, top_logprobs), which `datasets` and `import-labels` read."""
    from rich.markup import escape

    from potstill.cli.console import new_console
    from potstill.recipe import load_recipe
    from potstill.recipe.job import tokenizer_of
    from potstill.recipe.text import read_corpus
    from potstill.soft_labels import export_labels as written
    from potstill.soft_labels import store_at

    console = new_console()
    opened, decoded = store_at(store), load_recipe(recipe, sets=sets or [])
    if not out.parent.is_dir():
        raise StoreError(f"there is no folder {out.parent} to write {out.name} to: make it, or choose another (--out)")
    corpus = read_corpus(decoded.data, tokenizer_of(decoded))
    corpus = corpus.part("train", held_out=decoded.data.held_out, search=decoded.data.search)
    for _ in written(opened, corpus, out, k=k):
        pass
    size = out.stat().st_size / max(opened.num_tokens, 1)
    console.print(f"table    [bold]{escape(str(out))}[/bold]  {len(corpus):,} documents, {size:.1f} bytes a prediction")
