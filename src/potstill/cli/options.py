"""Arguments that several verbs take, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    Path, typer.Argument(help="A recipe in TOML; `potstill recipes` writes one.", show_default=False)
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="The run's folder. Default: runs/NAME.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Change a setting: --set training.learning_rate=3e-4.", show_default=False),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Share the work among so many workers, by Ray.", min=1, show_default=False),
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", help="The Ray cluster they run on, HOST:PORT. Default: this machine.", show_default=False),
]
