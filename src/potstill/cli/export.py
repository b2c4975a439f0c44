"""`potstill export STUDENT --to FORMAT`: a student written for an engine, read back, measured there, and called good or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MISSED = 1


# Long: one option a line.
def export(
    student: Annotated[
        str,
        typer.Argument(help="A run's folder, or a model: folder, hub name, `pocket`.", show_default=False),
    ],
    to: Annotated[str, typer.Option("--to", help="int4, int8, gguf or huggingface.", show_default=False)],
    kind: Annotated[str, typer.Option("--type", help="Of GGUF: f16, bf16, q8_0, q6_k, q4_k_m, q4_0, q4_1.")] = "q8_0",
    group: Annotated[
        int | None,
        typer.Option(help="Of int4 and int8: inputs a scale. Default: the largest of 128, 64, ... that fits.", min=8),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Text to measure on. Default: what the run held out.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Measure on at most so many tokens.", min=8)] = 4_000,
    length: Annotated[int, typer.Option(help="Context, in tokens.", min=2)] = 256,
    most_kl: Annotated[
        float, typer.Option(help="Of four bits: nats a prediction that it may differ from the student.", min=0.0)
    ] = 0.1,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Of int4 and int8: round by auto-round, on this text (`run`: what the run learned from), not to nearest.",
            show_default=False,
        ),
    ] = None,
    calibration_steps: Annotated[int, typer.Option(help="Of auto-round, a layer.", min=1)] = 200,
    threads: Annotated[
        int | None, typer.Option(help="Of llama.cpp. Default: all processors this process may use.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder. Default: RUN/export-TYPE, or NAME-TYPE.")
    ] = None,
) -> None:
    """Write a student for an engine, measure it there beside itself, and say how it is run. Exit code 1: it misses its bar."""
    import os

    # Bars of transformers and compressed-tensors say nothing that the messages don't; auto-round's does.
    if calibrate is None:
        os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils.logging import disable_progress_bar

    from potstill.cli.console import new_console
    from potstill.cli.exporting import Calibration, export_and_measure, wanted_of

    disable_progress_bar()
    wanted = wanted_of(to, kind, group, most_kl, is_calibrated=calibrate is not None)
    by_text = None if calibrate is None else Calibration(calibrate, calibration_steps)
    good = export_and_measure(
        student,
        wanted,
        new_console(),
        data=data,
        tokens=tokens,
        length=length,
        calibration=by_text,
        threads=threads,
        out=out,
    )
    if not good:
        raise typer.Exit(_MISSED)
