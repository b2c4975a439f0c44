"""`potstill route QUERIES`: which queries a student may answer in its teacher's place, with a promise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Judged(StrEnum):
    """How written answers are judged."""

    exact = "exact"
    regex = "regex"
    python = "python"


_MODEL = "A model folder, hub name, .gguf file, or a server: http://127.0.0.1:8080/v1#NAME."


def route(
    queries: Annotated[
        str,
        typer.Argument(help="JSONL: prompts, perhaps with `answer` and `choices`; or answers with scores and signals."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)],
    student: Annotated[str | None, typer.Option("--student", "-s", help=_MODEL)] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", "-t", help=_MODEL)] = None,
    keep: Annotated[str, typer.Option(help="How much of the teacher's quality the mix keeps.")] = "97%",
    sure: Annotated[str, typer.Option(help="With what probability a calibration keeps it.")] = "90%",
    judge: Annotated[Judged, typer.Option(help="How written answers are judged.")] = Judged.exact,
    how: Annotated[str, typer.Option(help="The pattern of regex, or module:function of python.")] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are a user's turn, not text to go on with.")] = False,
    new_tokens: Annotated[int, typer.Option(help="An answer has at most so many tokens.", min=1)] = 64,
    rows: Annotated[int, typer.Option(help="Answers written, or requests on their way, at once.", min=1)] = 8,
    by: Annotated[
        str,
        typer.Option(
            help="What is gone by: auto, mean_logprob, min_logprob, sum_logprob, entropy, margin, classifier."
        ),
    ] = "auto",
    fit: Annotated[
        str, typer.Option(help="Share of the queries to fit confidences on; the others test the promise.")
    ] = "30%",
    cost: Annotated[
        str | None,
        typer.Option(help="Of one query, STUDENT:TEACHER, as 1:8. Default: seconds, where they are measured."),
    ] = None,
    key_from: Annotated[
        str | None, typer.Option(help="The environment variable that holds the servers' key.", show_default=False)
    ] = None,
) -> None:
    """Calibrate who answers: easy queries the student, hard ones the teacher, with a promise of quality; writes policy.json."""
    import shlex

    from rich.console import Console

    from potstill.cli.console import new_console
    from potstill.cli.routing import Answers, cost_of, route_queries, share_of
    from potstill.routing import Policy
    from potstill.routing.calibration import Wanted

    wanted = Wanted(
        rho=share_of(keep, "--keep", whole=True),
        delta=1 - share_of(sure, "--sure"),
        by=by,
        fit_share=share_of(fit, "--fit"),
    )
    answers = Answers(student, teacher, judge.value, how, chat, new_tokens, rows, key_from)
    console = new_console()
    route_queries(queries, out, answers, wanted, cost_of(cost), console, Console(stderr=True))
    if Policy.load(out / "policy.json").threshold is None:
        return
    served = shlex.join([student or "STUDENT", "--teacher", teacher or "TEACHER", "--policy", str(out / "policy.json")])
    console.print(
        f"next     potstill serve {served}   (both as GGUF files, exported runs or servers)",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
