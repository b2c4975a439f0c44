"""`potstill compress TEACHER --data DATA --keep 95%`: the smallest student that keeps so much of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import OutOption, SetOption

_Teacher = Annotated[
    str,
    typer.Argument(help="A model folder, hub name, .gguf file or `pocket`; or a recipe (.toml) that says all of it."),
]
_Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="Text: file, folder, .jsonl, .parquet, dataset, `standard-library`; may be repeated.",
        show_default=False,
    ),
]
_Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        "-k",
        help="95% of the teacher's next-token accuracy; or bits=90%, questions.jsonl=90%, lm-eval:TASK=90%; may be repeated.",
        show_default=False,
    ),
]
_Tokens = Annotated[
    str | None,
    typer.Option(help="How long one student learns: tokens read, as 5M. Default: 4 epochs.", show_default=False),
]
_Minutes = Annotated[
    float | None, typer.Option(help="Instead: about how long all of it may take here.", min=0.1, show_default=False)
]
_UntilFlat = Annotated[bool, typer.Option("--until-flat", help="End a student's training when it stops improving.")]
_MaxSize = Annotated[
    str | None,
    typer.Option(help="At most so many parameters (80M), or bytes of 16-bit weights (150MB).", show_default=False),
]
_MinSpeed = Annotated[
    float | None,
    typer.Option(help="At least so many times as fast a writer as the teacher, as 1.5.", show_default=False),
]
# What a script can tell from a mistake (2): all went well, and no student clears the bar.
_MISSED = 3
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")]
_Deploy = Annotated[
    bool,
    typer.Option(
        "--deploy",
        help="Then write the student as GGUF, measured in llama.cpp, try it as its teacher's draft, and calibrate what it may answer in "
        "its place; the report shows all.",
    ),
]
_PushToHub = Annotated[
    str | None,
    typer.Option(
        help="Upload the student to this repository of the Hugging Face hub, if it clears the bar.", show_default=False
    ),
]


def compress(
    teacher: _Teacher,
    data: _Data = None,
    keep: _Keep = None,
    tokens: _Tokens = None,
    minutes: _Minutes = None,
    until_flat: _UntilFlat = False,
    max_size: _MaxSize = None,
    min_speed: _MinSpeed = None,
    out: OutOption = None,
    sets: SetOption = None,
    dry_run: _DryRun = False,
    deploy: _Deploy = False,
    push_to_hub: _PushToHub = None,
) -> None:
    """Find the smallest student of TEACHER that keeps what you say, and prove it on held-out text; resumes after a kill."""

    from potstill.cli.compressing import recipe_of, run_search
    from potstill.cli.console import new_console

    recipe = recipe_of(
        teacher,
        data or [],
        keep or [],
        tokens=tokens,
        until_flat=until_flat,
        max_size=max_size,
        min_speed=min_speed,
        sets=sets or [],
    )
    found = run_search(
        recipe,
        out or Path("runs") / recipe.name,
        new_console(),
        minutes=minutes,
        dry_run=dry_run,
        push_to_hub=push_to_hub,
        put_to_work=deploy,
    )
    if found and not found["holds"]:
        raise typer.Exit(_MISSED)
