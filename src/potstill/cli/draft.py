"""`potstill draft TEACHER STUDENT --prompts P`: what the student is worth as the draft of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Precision = Literal["float32", "bfloat16"]


def draft(
    teacher: Annotated[
        str, typer.Argument(help="A model folder, hub name or .gguf file; `pocket` is the one that ships.")
    ],
    student: Annotated[str, typer.Argument(help="A smaller model of the same tokenizer.")],
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            "-p",
            help="Rows with `prompt` or `messages` (and `domain`), or any text, whose documents' beginnings are taken.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("runs/draft"),
    most: Annotated[int, typer.Option(help="At most so many prompts.", min=1)] = 32,
    new_tokens: Annotated[int, typer.Option(help="Written after each, at most.", min=2)] = 64,
    prompt_tokens: Annotated[int, typer.Option(help="Of a document, the beginning that is taken.", min=1)] = 32,
    temperature: Annotated[
        list[float] | None,
        typer.Option(help="Of both; 0 = greedy. May be given twice. Default: 0 and 1.", min=0, show_default=False),
    ] = None,
    longest: Annotated[int, typer.Option(help="Draft lengths up to this one are predicted.", min=1, max=32)] = 8,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Draft lengths that are measured besides the one predicted to be best. Default: 2,4.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Precision,
        typer.Option(help="What both models' weights are held in; in bfloat16 close calls may fall otherwise."),
    ] = "float32",
    teacher_gguf: Annotated[
        Path | None, typer.Option(help="Also measure in llama.cpp: the teacher's GGUF file ...", show_default=False)
    ] = None,
    student_gguf: Annotated[Path | None, typer.Option(help="... and the student's.", show_default=False)] = None,
) -> None:
    """Predict from soft labels how many of the student's tokens its teacher takes, and measure it, with the time it saves."""
    from potstill.cli.console import new_console
    from potstill.cli.drafting import Wanted, run_draft

    temperatures = tuple(temperature or (0.0, 1.0))
    wanted = Wanted(most, new_tokens, prompt_tokens, temperatures, longest, lengths, dtype, teacher_gguf, student_gguf)
    run_draft(teacher, student, prompts, out, wanted, new_console())
