"""`potstill evaluate MODEL --data DATA [--teacher TEACHER]`: how good a model is, and how much of its teacher it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model folder, hub name or .gguf file; `pocket` is the one that ships.")
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", help="Text to score on: file, folder, dataset or `standard-library`.")
    ],
    teacher: Annotated[
        str | None, typer.Option("--teacher", "-t", help="Also measure agreement, KL and what is kept of it.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="At most so many tokens.", min=1)] = 100_000,
    length: Annotated[int, typer.Option(help="Context, in tokens.", min=2)] = 512,
    held_out: Annotated[
        float,
        typer.Option(help="Only documents in the lowest share of key hashes, as in a recipe; 1 = all.", min=0, max=1),
    ] = 1.0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the scores here, as JSON.")] = None,
) -> None:
    """Score a model on text: accuracy, perplexity, bits per byte, calibration, speed; beside a teacher, what it keeps."""
    import json

    from rich.markup import escape

    from potstill.cli.console import new_console
    from potstill.cli.tables import print_scores
    from potstill.data import read_documents, tokenize
    from potstill.errors import DataError, RunDirectoryError
    from potstill.evaluation.measuring import written_whole
    from potstill.models import classes_of, load_shape, load_tokenizer
    from potstill.runs import score_model

    if out is not None and not out.parent.is_dir():
        raise RunDirectoryError(
            f"there is no folder {out.parent} to write the scores to: make it, or choose another (--out)"
        )
    console = new_console()
    console.print(f"[dim]reading {escape(data)} …[/dim]")
    tokenizer = load_tokenizer(model)
    classes = classes_of(load_shape(model))
    corpus = tokenize(read_documents(data, tokenizer=tokenizer), tokenizer, classes=classes)
    if held_out < 1:
        corpus = corpus.part("held_out", held_out=held_out)
        if len(corpus) == 0:
            raise DataError(
                f"none of the documents in {data} is in the held-out share of {held_out:g}: raise --held-out"
            )
    beside = "" if teacher is None else f" and its teacher {escape(teacher)}"
    read = min(tokens, corpus.num_tokens)
    console.print(f"[dim]measuring {escape(model)}{beside} on {read:,} tokens in contexts of {length:,} …[/dim]")
    scores = score_model(model, corpus, tokenizer=tokenizer, teacher_source=teacher, tokens=tokens, length=length)
    print_scores(scores, console)
    if out is not None:
        with written_whole(out) as part:
            part.write_text(json.dumps(scores.to_json(), indent=2) + "\n", "utf-8")
        console.print(f"\nscores   [bold]{escape(str(out))}[/bold]")
