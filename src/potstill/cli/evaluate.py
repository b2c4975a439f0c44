"""`potstill evaluate MODEL --data DATA [--teacher TEACHER]`: how good a model is, and how much of its teacher it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, hub name or .gguf file; `pocket` is the one that ships.")],
    data: Annotated[str, typer.Option("--data", "-d", help="Text to score on: a file, folder, dataset or `standard-library`.")],
    teacher: Annotated[
        str | None, typer.Option("--teacher", "-t", help="Also measure agreement, KL and what is kept of it.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="At most so many tokens.")] = 100_000,
    length: Annotated[int, typer.Option(help="Context, in tokens.")] = 512,
    held_out: Annotated[
        float, typer.Option(help="Score only on documents whose hash falls into this share; 1 = all of them.", min=0.0, max=1.0)
    ] = 1.0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the scores as JSON here.")] = None,
) -> None:
    """Score a model on text: accuracy, perplexity, bits per byte, calibration, speed; beside a teacher, what it keeps."""
    from rich.console import Console

    from potstill.cli.tables import print_scores
    from potstill.recipe import evaluate_models

    console = Console()
    result = evaluate_models(
        model,
        data,
        teacher=teacher,
        tokens=tokens,
        length=length,
        held_out=held_out,
        say=lambda text: console.print(f"[dim]{text}[/dim]"),
    )
    print_scores(result, console)
    if out is not None:
        result.write(out)
        console.print(f"scores   [bold]{out}[/bold]")


command = evaluate
