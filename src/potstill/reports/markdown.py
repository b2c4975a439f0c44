"""A page as Markdown: what a repository, a ticket or a terminal can show. Charts are left to the HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from potstill.evaluation.measuring import written_whole
from potstill.reports.page import Code, Page, Strip, Table


def markdown(page: Page) -> str:
    """Cards, tables, notes, code."""
    return "\n".join(_lines(page)).rstrip() + "\n"


def write_markdown(page: Page, path: Path) -> Path:
    """Write it, whole or not at all; RunDirectoryError where it can't be written."""
    with written_whole(path) as part:
        part.write_text(markdown(page), "utf-8")
    return path


def _lines(page: Page) -> Iterator[str]:
    yield f"# {page.title}\n\n{page.lead}\n"
    for card in page.cards:
        yield f"- {card.label}: **{card.value}**" + (f" ({card.detail})" if card.detail else "")
    yield ""
    for table in page.tables:
        yield from _table(table)
    for part in page.parts:
        match part:
            case Strip():
                yield f"## {part.title}\n\n{part.note} Kept: {', '.join(name for name, kept in part.boxes if kept)}.\n"
            case Code():
                yield f"## {part.title}\n\n```python\n{part.text}```\n"
    for note in page.notes:
        yield f"- {note}"


def _table(table: Table) -> Iterator[str]:
    yield f"## {table.caption}\n"
    yield f"| {' | '.join([table.names, *table.columns])} |"
    yield f"| --- |{' ---: |' * len(table.columns)}"
    for row in table.rows:
        cells = [cell.value + (f" ({cell.interval})" if cell.interval else "") for cell in row.cells]
        yield f"| {' | '.join([f'**{row.name}**' if row.is_highlighted else row.name, *cells]).replace(chr(10), ' ')} |"
    yield f"\n{table.note}\n" if table.note else ""
