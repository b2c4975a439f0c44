"""What a report is made of: plain text and numbers, no markup. Whatever a user wrote may stand in any of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Card:
    """One figure to be seen first: what it is, the figure, and a line below it (an interval, a comparison)."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Cell:
    """One place in a table: a figure, and its interval in small type."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A named line of a table; the highlighted one is what the report is about."""

    name: str
    cells: Sequence[Cell]
    is_highlighted: bool = False


@dataclass(frozen=True)
class Table:
    """Figures side by side. `columns` head the cells; `names` heads the rows' names; `note` stands below."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    names: str = ""
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Points joined in the order of x. Of many points, means over neighbours are drawn, with their range behind.

    low, high  the interval of each point, both or none: a band around few points, each of which is marked
    """

    label: str
    x: Sequence[int | float]
    y: Sequence[int | float]
    is_highlighted: bool = False
    low: Sequence[int | float] = ()
    high: Sequence[int | float] = ()


@dataclass(frozen=True)
class Span:
    """A distance along x between two curves, at the height y, with what it comes to in words."""

    y: float
    x_from: float
    x_to: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes; units belong into the labels. `is_logarithmic` is of y."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    note: str = ""
    is_logarithmic: bool = False
    is_x_logarithmic: bool = False
    spans: Sequence[Span] = ()


@dataclass(frozen=True)
class Interval:
    """A named value between its bounds."""

    name: str
    value: float
    low: float
    high: float
    is_highlighted: bool = False


@dataclass(frozen=True)
class IntervalChart:
    """Values compared, one below the other, with their intervals. `reference` names the one the others are held against."""

    title: str
    x_label: str
    intervals: Sequence[Interval]
    note: str = ""
    reference: str | None = None
    decimals: int = 3
    is_logarithmic: bool = False


@dataclass(frozen=True)
class Spot:
    """A point with its vertical interval. `label` stands beside it where it is not empty; `mark` is how it looks: o, s, ^, x."""

    label: str
    x: float
    y: float
    low: float
    high: float
    mark: str = "o"
    is_highlighted: bool = False


@dataclass(frozen=True)
class Scatter:
    """Spots over a pair of axes, and a level line with its name; `kinds` says in words what the marks are."""

    title: str
    x_label: str
    y_label: str
    spots: Sequence[Spot]
    kinds: Mapping[str, str]
    level: float | None = None
    level_name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Token:
    """A piece of text, how it is marked (same, lost, gained, both wrong), and what is said of it on pointing at it."""

    text: str
    mark: str = "same"
    hint: str = ""


@dataclass(frozen=True)
class MarkedText:
    """Passages of marked tokens under one heading, with a key of the marks."""

    title: str
    passages: Sequence[tuple[str, Sequence[Token]]]
    key: Mapping[str, str]
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """Boxes in a row, each kept or not: layers of a model."""

    title: str
    boxes: Sequence[tuple[str, bool]]
    note: str = ""


@dataclass(frozen=True)
class Code:
    """Text to be copied."""

    title: str
    text: str


@dataclass(frozen=True)
class Page:
    """A whole report, in the order it is read.

    charts_first  before the tables
    settings      the resolved recipe as text, folded away
    environment   versions and machine, folded away
    """

    title: str
    lead: str
    cards: Sequence[Card] = ()
    tables: Sequence[Table] = ()
    curves: Sequence[Chart | IntervalChart | Scatter] = ()
    parts: Sequence[Strip | MarkedText | Code] = ()
    notes: Sequence[str] = ()
    charts_first: bool = False
    settings: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def number_cell(value: float, low: float, high: float, *, decimals: int = 3) -> Cell:
    """A number and its interval: 1,234.5 with 1,200.1 – 1,260.0 below it, where it is known; a dash where there is no finite number."""
    if not math.isfinite(value):
        return Cell("–")
    if not (math.isfinite(low) and math.isfinite(high)):
        return Cell(f"{value:,.{decimals}f}")
    return Cell(f"{value:,.{decimals}f}", f"{low:,.{decimals}f} – {high:,.{decimals}f}")


def share_cell(value: float, low: float, high: float, *, decimals: int = 1) -> Cell:
    """A share as a percentage: 0.974 becomes 97.4 %."""
    if not math.isfinite(value):
        return Cell("–")
    if not (math.isfinite(low) and math.isfinite(high)):
        return Cell(f"{100 * value:.{decimals}f} %")
    return Cell(f"{100 * value:.{decimals}f} %", f"{100 * low:.{decimals}f} – {100 * high:.{decimals}f}")
