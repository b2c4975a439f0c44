"""Numbers -> one page people would rather look at.

In: a `Page`, which is text and numbers. Out: one HTML file with everything inside, in a light and a dark scheme.

    page = Page(title="demo", lead="...", cards=[Card("accuracy kept", "97.4 %", "97.1 – 97.8")], tables=[...], curves=[...])
    write_report(page, Path("report.html"))

page.py          the nouns: Page, Card, Table, Chart, IntervalChart, Scatter, MarkedText, Strip, Code
distillation.py  the page of a distillation run: from its scores and steps to a Page
label_worth.py   the page of learning curves: what soft labels are worth, and their picture
compression.py   the page of a search for the smallest student, from the files in its folder
routing.py       the page of a calibration: what may be promised of a student and its teacher
drafting.py      the page of a student tried as a draft
deployment.py    tables of the exports and the draft in a run's folder
costs.py         what a model takes to run, what labels hold
comparison.py    runs made into pages again, and several on one page
words.py         passages token by token, student beside teacher
sentences.py     what was found, in a sentence
html.py          the page as HTML; page.css is its look
charts.py        charts as SVG in the page's own colours (matplotlib)
markdown.py      the page as Markdown
card.py          the student's model card
heat_map.py      importance scores as a picture (PNG)
"""

from potstill.reports.heat_map import draw_importance
from potstill.reports.html import render, write_report
from potstill.reports.label_worth import label_worth_page, write_picture
from potstill.reports.page import (
    Card,
    Cell,
    Chart,
    Code,
    Curve,
    Interval,
    IntervalChart,
    MarkedText,
    Page,
    Row,
    Scatter,
    Span,
    Spot,
    Strip,
    Table,
    Token,
    number_cell,
    share_cell,
)

__all__ = [
    "Card",
    "Cell",
    "Chart",
    "Code",
    "Curve",
    "Interval",
    "IntervalChart",
    "MarkedText",
    "Page",
    "Row",
    "Scatter",
    "Span",
    "Spot",
    "Strip",
    "Table",
    "Token",
    "draw_importance",
    "label_worth_page",
    "number_cell",
    "render",
    "share_cell",
    "write_picture",
    "write_report",
]
