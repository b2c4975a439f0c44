"""`potstill report RUN [RUN ...]`: the pages of runs made anew from their files, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where the comparison of several runs is written. Default: comparison.html.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make report.html of a RUN again, from its files alone; with several, a page that compares them."""
    from rich.markup import escape

    from potstill.cli.console import new_console
    from potstill.errors import RecipeError
    from potstill.reports.comparison import compared, rebuilt
    from potstill.reports.html import write_report

    console = new_console()
    if len(runs) == 1:
        if out is not None:
            raise RecipeError(
                f"the page of one run is always {runs[0] / 'report.html'}: leave --out away, or name several runs"
            )
        console.print(f"report   [bold]{escape(str(rebuilt(runs[0])))}[/bold]")
        return
    page = out or Path("comparison.html")
    if page.is_dir():
        page = page / "comparison.html"
    # Without an ending no browser opens it.
    page = page if page.suffix else page.with_name(f"{page.name}.html")
    console.print(f"report   [bold]{escape(str(write_report(compared(runs), page)))}[/bold]")
