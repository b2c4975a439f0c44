"""The verbs put together, and what a failure looks like."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from potstill.cli import (
    check,
    compress,
    demo,
    distill,
    draft,
    evaluate,
    export,
    export_labels,
    import_labels,
    information,
    inspect,
    label,
    plan,
    preview,
    prune,
    recipes,
    report,
    route,
    serve,
    write,
)
from potstill.cli.fellows import check_is_shared, is_first_to_fail, part
from potstill.errors import PotstillError

# A disk, a share of it, and what a file may have at most.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DEFECT, _MISTAKE, _INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="potstill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"potstill {version('potstill')}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Turn a large language model into the smallest student that still does the job."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _answering(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with failures turned into a message and an exit code."""

    @functools.wraps(verb)
    def answering(*arguments: object, **options: object) -> None:
        try:
            check_is_shared(verb.__name__.replace("_", "-"))
            verb(*arguments, **options)
            part()
        except KeyboardInterrupt:
            _end("interrupted. What was finished is kept: the same command goes on from there", _INTERRUPTED)
        except PotstillError as error:
            _end(str(error), _MISTAKE)
        except (MemoryError, RuntimeError, OSError) as error:
            if (advice := _advice(error)) is not None:
                _end(advice, _MISTAKE)
            if isinstance(error, typer.Exit) or is_first_to_fail():
                raise
            raise typer.Exit(_DEFECT) from None

    return answering


def _advice(error: Exception) -> str | None:
    """What to do about a machine that is too small; None when that is not what failed."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"the disk is full ({error.filename or 'while writing'}): free some space and start the same command again"
        )
    is_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if is_memory or "out of memory" in said.lower() or "can't allocate memory" in said.lower():
        return (
            "out of memory. What needs less: training.micro_rows = 1 (smaller passes, the same student), then "
            "training.gradient_checkpointing = true, then a shorter training.length; `potstill check RECIPE` estimates it beforehand. "
            f"What was said: {said}"
        )
    return None


def _end(message: str, code: int) -> NoReturn:
    if is_first_to_fail():
        typer.echo(f"potstill: {message}", err=True)
    raise typer.Exit(code)


_VERBS = (
    demo.demo,
    compress.compress,
    distill.distill,
    write.write,
    label.label,
    inspect.inspect,
    information.information,
    import_labels.import_labels,
    export_labels.export_labels,
    check.check,
    plan.plan,
    prune.prune,
    preview.preview,
    evaluate.evaluate,
    route.route,
    export.export,
    draft.draft,
    report.report,
    recipes.recipes,
    serve.serve,
)
for _verb in _VERBS:
    app.command(_verb.__name__.replace("_", "-"))(_answering(_verb))
