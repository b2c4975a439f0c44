"""`potstill prune TEACHER --to 60%`: a smaller model of the teacher's most important parts, to be distilled."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Choice(StrEnum):
    """Which layers stay."""

    run = "run"
    one_by_one = "one_by_one"
    perplexity = "perplexity"
    even = "even"
    first_last = "first_last"


def prune(
    teacher: Annotated[
        str, typer.Argument(help="A model folder, hub name or .gguf file; `pocket` is the one that ships.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(
            help="How small: 60% of the parameters that are not embeddings, 80M parameters, 150MB of weights; or how fast: 1.5x.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="How many layers stay (20), or which (0,1,5).", show_default=False)
    ] = None,
    choose: Annotated[
        Choice, typer.Option(help="Which of a number of layers: all but the run, or but those, that matter least; ...")
    ] = Choice.run,
    ffn: Annotated[int | None, typer.Option(help="Neurons of a feed-forward layer.", show_default=False)] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads.", show_default=False)] = None,
    kv_heads: Annotated[
        int | None, typer.Option(help="Key-value heads, each the mean of those it stands for.", show_default=False)
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Channels.", show_default=False)] = None,
    data: Annotated[
        str, typer.Option("--data", "-d", help="Text to look at: file, folder, dataset.")
    ] = "standard-library",
    tokens: Annotated[int, typer.Option(help="How much of it.", min=1)] = 50_000,
    length: Annotated[int, typer.Option(help="Context, in tokens.", min=2)] = 512,
    importance: Annotated[
        Path | None, typer.Option(help="Scores of an earlier call (its importance.safetensors).", show_default=False)
    ] = None,
) -> None:
    """Cut a model to its most important layers, neurons, heads and channels; plain from_pretrained loads what is written."""
    from potstill.cli.console import new_console
    from potstill.cli.pruning import Wanted, prune_model

    wanted = Wanted(to, layers, choose.value, ffn, heads, kv_heads, hidden)
    prune_model(teacher, out, wanted, data, tokens, length, importance, new_console())
