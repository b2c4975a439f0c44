"""A page as one HTML file that asks nobody for anything: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import chain
from pathlib import Path

from potstill.errors import RunDirectoryError
from potstill.reports.charts import averaging, legend, svg
from potstill.reports.page import (
    Card,
    Cell,
    Chart,
    Code,
    IntervalChart,
    MarkedText,
    Page,
    Row,
    Scatter,
    Strip,
    Table,
    Token,
)


def render(page: Page) -> str:
    """The whole page; equal pages give equal text."""
    return "\n".join(_document(page)) + "\n"


def write_report(page: Page, path: Path) -> Path:
    """Write the page, whole or not at all. Raises RunDirectoryError where it can't be written."""
    text = render(page)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(text.encode("utf-8", "replace"))
        part.replace(path)
    except OSError as error:
        raise RunDirectoryError(
            f"can't write the report {path}: {error.strerror or error}. Free some space or mend the folder, and run it again"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _document(page: Page) -> Iterator[str]:
    # The policy forbids the page to load anything, whatever was written into it.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    style = files("potstill.reports").joinpath("page.css").read_text("utf-8")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(page.title)} – potstill</title>"
    yield f'<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n<main>'
    yield f'<header>\n<p class="mark">potstill</p>\n<h1>{escape(page.title)}</h1>'
    yield f'<p class="lead">{escape(page.lead)}</p>\n</header>'
    yield from _cards(page)
    charts, tables = _charts(page), chain.from_iterable(_table(table) for table in page.tables)
    yield from chain(charts, tables) if page.charts_first else chain(tables, charts)
    for part in page.parts:
        yield from _part(part)
    yield from _notes(page)
    yield from _folded(page)
    yield "</main>\n</body>\n</html>"


def _cards(page: Page) -> Iterator[str]:
    if page.cards:
        yield '<dl class="cards">'
        yield from (_card(card) for card in page.cards)
        yield "</dl>"


def _card(card: Card) -> str:
    detail = f'<dd class="detail">{escape(card.detail)}</dd>' if card.detail else ""
    return f'<div class="card"><dt>{escape(card.label)}</dt><dd class="value">{escape(card.value)}</dd>{detail}</div>'


def _table(table: Table) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in (table.names, *table.columns))
    yield f'<section>\n<div class="wide">\n<table>\n<caption>{escape(table.caption)}</caption>'
    yield f"<thead><tr>{heads}</tr></thead>\n<tbody>"
    yield from (_row(row) for row in table.rows)
    yield "</tbody>\n</table>\n</div>"
    yield f"{_note(table.note)}</section>"


def _row(row: Row) -> str:
    opening = '<tr class="highlighted">' if row.is_highlighted else "<tr>"
    return f'{opening}<th scope="row">{escape(row.name)}</th>{"".join(map(_cell, row.cells))}</tr>'


def _cell(cell: Cell) -> str:
    interval = f" <small>{escape(cell.interval)}</small>" if cell.interval else ""
    return f"<td>{escape(cell.value)}{interval}</td>"


def _charts(page: Page) -> Iterator[str]:
    if page.curves:
        yield '<section class="charts">'
        yield from (_figure(chart, f"chart{index}") for index, chart in enumerate(page.curves, 1))
        yield "</section>"


def _figure(chart: Chart | IntervalChart | Scatter, prefix: str) -> str:
    heading = f"<figcaption><h2>{escape(chart.title)}</h2>{legend(chart)}</figcaption>"
    note = _note(" ".join(filter(None, (chart.note, averaging(chart)))))
    return f"<figure>\n{heading}\n{svg(chart, prefix=prefix)}\n{note}</figure>"


def _part(part: Strip | MarkedText | Code) -> Iterator[str]:
    yield f"<section>\n<h2>{escape(part.title)}</h2>"
    match part:
        case Strip():
            words = f"kept: {', '.join(name for name, kept in part.boxes if kept)}"
            yield f'<ol class="strip" role="img" aria-label="{escape(words)}">'
            yield from (f'<li class="{"kept" if kept else "cut"}">{escape(name)}</li>' for name, kept in part.boxes)
            yield f"</ol>{_note(part.note)}"
        case MarkedText():
            keys = "".join(f'<li><span class="{mark}">{escape(word)}</span></li>' for mark, word in part.key.items())
            yield f'<ul class="legend">{keys}</ul>{_note(part.note)}'
            for name, tokens in part.passages:
                yield f'<figure class="passage"><figcaption>{escape(name)}</figcaption><p tabindex="0">{_tokens(tokens)}</p></figure>'
        case Code():
            yield f'<pre tabindex="0">{escape(part.text)}</pre>'
    yield "</section>"


def _tokens(tokens: Sequence[Token]) -> str:
    return "".join(
        f'<span class="{one.mark}" title="{escape(one.hint)}">{escape(one.text)}</span>'
        if one.mark != "same"
        else escape(one.text)
        for one in tokens
    )


def _notes(page: Page) -> Iterator[str]:
    if page.notes:
        items = "\n".join(f"<li>{escape(note)}</li>" for note in page.notes)
        yield f'<section>\n<h2>Worth knowing</h2>\n<ul class="notes">\n{items}\n</ul>\n</section>'


def _folded(page: Page) -> Iterator[str]:
    if page.settings or page.environment:
        yield "<section>"
    if page.settings:
        yield f"<details><summary>The recipe, with every default</summary>\n<pre>{escape(page.settings)}</pre></details>"
    if page.environment:
        entries = "\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.environment.items()
        )
        yield f'<details><summary>The machine and the versions</summary>\n<dl class="environment">\n{entries}\n</dl></details>'
    if page.settings or page.environment:
        yield "</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n' if text else ""
