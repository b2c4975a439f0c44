"""The verbs put together, and what a failure looks like."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Annotated

import click
import typer

from potstill.cli import check, demo, distill, evaluate, preview, recipes
from potstill.errors import PotstillError

app = typer.Typer(
    name="potstill",
    help="Turn a large language model into the smallest student that still does the job.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo, distill, check, preview, evaluate, recipes):
    app.command(verb.command.__name__)(verb.command)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    """Turn a large language model into the smallest student that still does the job."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"potstill {version_of('potstill')}")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 2 a mistake that the user can mend, 130 interrupted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return app(list(arguments), standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted. What was finished is kept: the same command goes on from there")
        return 130
    except PotstillError as error:
        _say(str(error))
        return 2
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _say(
                f"the disk is full ({error.filename or 'while writing'}): free some space and start the same command again"
            )
            return 2
        raise
    except (MemoryError, RuntimeError) as error:
        if (
            isinstance(error, MemoryError)
            or "out of memory" in str(error).lower()
            or "can't allocate memory" in str(error).lower()
        ):
            _say(
                "out of memory. Needed less: training.micro_rows = 1 (smaller passes, the same student), then "
                "training.gradient_checkpointing = true, then a shorter training.length. `potstill check RECIPE` estimates before "
                f"it runs. What torch said: {str(error).splitlines()[0] if str(error) else 'nothing'}"
            )
            return 2
        raise


def _say(message: str) -> None:
    click.echo(f"potstill: {message}", err=True)
