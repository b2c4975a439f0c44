"""Charts as SVG that lives in a page: its text is the page's text, its colours are the page's colours.

Matplotlib draws with stand-in colours, which become the CSS variables of page.css: one drawing is legible in the light and
in the dark scheme. Equal charts give equal bytes.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from potstill.reports.page import Chart, Curve, Interval, IntervalChart, Scatter, Span

_INK, _MUTED, _LINE, _ACCENT = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", _ACCENT: "--accent"}
# Of a file by itself: those of page.css.
_SCHEMES = (
    {"--ink": "#23201d", "--muted": "#726a62", "--line": "#e6e1da", "--accent": "#a84a16", "--ground": "#ffffff"},
    {"--ink": "#ece7e1", "--muted": "#a0968c", "--line": "#38332e", "--accent": "#ee9a5f", "--ground": "#171513"},
)
_DASHES: tuple[tuple[float, ...], ...] = ((), (5.0, 2.0), (1.5, 1.5), (7.0, 2.0, 1.5, 2.0))
_MARKS = ("o", "s", "^", "D")
_SHAPES = {"o": "●", "s": "■", "^": "▲", "x": "×", "D": "◆"}
_MOST_POINTS = 160
_FEW_POINTS = 12
_INCHES = (6.2, 3.3)
_FONT_SIZE = 10.5


def svg(chart: Chart | IntervalChart | Scatter, *, prefix: str, names: bool = False) -> str:
    """The chart as an <svg> element to stand in HTML; ids begin with `prefix`, unique in the page. `names`: of the curves, inside it."""
    with _drawing():
        match chart:
            case Chart():
                figure = _curves(chart, names=names)
            case IntervalChart():
                figure = _intervals(chart)
            case Scatter():
                figure = _scatter(chart)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embedded(buffer.getvalue(), in_words(chart), prefix)


def svg_file(chart: Chart | IntervalChart | Scatter) -> str:
    """The chart as a file by itself, in a light and a dark scheme, with the names of its curves."""
    light, dark = (";".join(f"{name}:{value}" for name, value in scheme.items()) for scheme in _SCHEMES)
    style = (
        f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}text{{font-family:system-ui,sans-serif}}</style>"
        '<rect width="100%" height="100%" style="fill:var(--ground)"/>'
    )
    opening, _, rest = svg(chart, prefix="chart", names=True).partition(">")
    return f'{opening} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{style}{rest}\n'


def legend(chart: Chart | IntervalChart | Scatter) -> str:
    """Which line is which, as HTML that wraps with the page; nothing where there is one line."""
    if isinstance(chart, Scatter):
        there = {one.mark for one in chart.spots}
        shapes = "".join(
            f"<li>{_SHAPES[mark]} {escape(words)}</li>" for mark, words in chart.kinds.items() if mark in there
        )
        return f'<ul class="legend">{shapes}</ul>'
    if not isinstance(chart, Chart) or len(chart.curves) < 2:
        return ""
    return f'<ul class="legend">{"".join(_key(*styled) for styled in _styled(chart.curves))}</ul>'


def averaging(chart: Chart | IntervalChart | Scatter) -> str:
    """A sentence that says what was averaged to draw this chart; empty where every point is drawn."""
    longest = max((len(curve.x) for curve in chart.curves), default=0) if isinstance(chart, Chart) else 0
    if longest <= _MOST_POINTS:
        return ""
    return f"Lines are means of about {round(longest / _MOST_POINTS) or 1} neighbouring points, bands their range."


def in_words(chart: Chart | IntervalChart | Scatter) -> str:
    """What the chart shows, for those who don't see it."""
    match chart:
        case Chart(curves=curves):
            parts = [
                f"{curve.label} goes from {_short(curve.y[0])} to {_short(curve.y[-1])}"
                for curve in curves
                if len(curve.y)
            ]
            spans = [f" {one.label} at {_short(one.y)}." for one in chart.spans]
            return f"{chart.title}. {chart.y_label} over {chart.x_label}: {'; '.join(parts) or 'no points'}.{''.join(spans)}"
        case IntervalChart(intervals=intervals):
            parts = [f"{i.name} {_short(i.value)} ({_short(i.low)} to {_short(i.high)})" for i in intervals]
            return f"{chart.title}. {chart.x_label}: {'; '.join(parts) or 'no values'}."
        case Scatter(spots=spots):
            parts = [
                f"{one.label or chart.kinds.get(one.mark, '')} {_short(one.y)} at {_short(one.x)}" for one in spots
            ]
            line = "" if chart.level is None else f" {chart.level_name}: {_short(chart.level)}."
            return f"{chart.title}. {chart.y_label} over {chart.x_label}: {'; '.join(parts) or 'no points'}.{line}"


@contextmanager
def _drawing() -> Iterator[None]:
    # Both are global to the process; the contexts put them back, and nothing else here touches matplotlib's state.
    with (
        matplotlib.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "potstill",
                "font.family": "sans-serif",
                "font.size": _FONT_SIZE,
                "text.usetex": False,
                "text.parse_math": False,
            }
        ),
        warnings.catch_warnings(),
    ):
        # The page's fonts draw the text; that matplotlib's own has no such letter only makes the layout a guess.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _styled(curves: Sequence[Curve]) -> list[tuple[Curve, tuple[float, ...]]]:
    """Each curve with its dashes: the highlighted are drawn through, the others differ from one another."""
    others = iter(range(len(curves)))
    return [(curve, () if curve.is_highlighted else _DASHES[next(others) % len(_DASHES)]) for curve in curves]


def _mark(dashes: tuple[float, ...]) -> str:
    return _MARKS[_DASHES.index(dashes)]


def _key(curve: Curve, dashes: tuple[float, ...]) -> str:
    if len(curve.x) == 1:
        return f"<li>{_SHAPES[_mark(dashes)]} {escape(curve.label)}</li>"
    variable, width = ("--accent", 2.5) if curve.is_highlighted else ("--muted", 1.6)
    style = f"stroke: var({variable}); stroke-width: {width}; stroke-dasharray: {' '.join(map(str, dashes)) or 'none'}"
    line = f'<svg viewBox="0 0 26 4" aria-hidden="true"><path d="M0 2H26" style="{style}"/></svg>'
    return f"<li>{line}{escape(curve.label)}</li>"


def _curves(chart: Chart, *, names: bool) -> Figure:
    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    if chart.is_logarithmic:
        axes.set_yscale("log")
    for curve, dashes in sorted(_styled(chart.curves), key=lambda styled: styled[0].is_highlighted):
        _draw(axes, curve, dashes, is_logarithmic=chart.is_logarithmic)
    for span in chart.spans:
        _draw_span(axes, span)
    _dress(axes, chart.x_label)
    axes.set_title(_cut(chart.y_label, 70), loc="left", color=_MUTED, fontsize=_FONT_SIZE, pad=10)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.margins(x=0.04 if chart.is_x_logarithmic else 0.01)
    if chart.is_x_logarithmic:
        sizes = sorted({float(size) for curve in chart.curves for size in curve.x})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [_short(float(f"{size:.2g}")) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
    if names:
        axes.legend(frameon=False, labelcolor=_MUTED, fontsize=_FONT_SIZE - 1, handlelength=2.6)
    return figure


def _draw_span(axes: Axes, span: Span) -> None:
    ends = {"arrowstyle": "<->", "color": _INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (span.x_to, span.y), (span.x_from, span.y), arrowprops=ends)
    axes.annotate(
        span.label,
        # Nearer to the curve that needs less: falling curves leave the most room there.
        (span.x_from ** (2 / 3) * span.x_to ** (1 / 3), span.y),
        (0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=_INK,
    )


def _draw(axes: Axes, curve: Curve, dashes: tuple[float, ...], *, is_logarithmic: bool) -> None:
    x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
    is_drawable = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not is_logarithmic))
    x, y = x[is_drawable], y[is_drawable]
    colour = _ACCENT if curve.is_highlighted else _MUTED
    if len(x) > _MOST_POINTS:
        groups = np.array_split(np.arange(len(x)), _MOST_POINTS)
        low, high = (np.array([function(y[group]) for group in groups]) for function in (np.min, np.max))
        x, y = (np.array([values[group].mean() for group in groups]) for values in (x, y))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    width = 2.0 if curve.is_highlighted else 1.3
    (line,) = axes.plot(x, y, color=colour, linewidth=width, solid_capstyle="round", label=curve.label)
    if len(curve.low):
        low, high = (np.asarray(bound, dtype=float)[is_drawable] for bound in (curve.low, curve.high))
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    if len(x) == 1 or (len(curve.low) and len(x) <= _FEW_POINTS):
        line.set_marker(_mark(dashes))
    if len(x) == 1:
        line.set_linestyle("none")
        return
    if dashes:
        line.set_dashes(dashes)


def _intervals(chart: IntervalChart) -> Figure:
    num_rows = max(1, len(chart.intervals))
    figure = Figure(figsize=(_INCHES[0], 0.9 + 0.46 * num_rows), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    if chart.is_logarithmic:
        axes.set_xscale("log")
    for place, interval in enumerate(chart.intervals):
        if math.isfinite(interval.value) and (interval.value > 0 or not chart.is_logarithmic):
            _draw_interval(axes, interval, place)
            if interval.name == chart.reference:
                axes.axvline(interval.value, color=_MUTED, linewidth=0.9, dashes=(3, 2), zorder=0)
        figures = f"{interval.value:,.{chart.decimals}f}" if math.isfinite(interval.value) else "–"
        where = {"xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(figures, (1.02, place), color=_ACCENT if interval.is_highlighted else _INK, **where)
    _dress(axes, chart.x_label)
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="x", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(chart.intervals)), [_cut(interval.name, 28) for interval in chart.intervals])
    for label, interval in zip(axes.get_yticklabels(), chart.intervals, strict=True):
        label.set_color(_ACCENT if interval.is_highlighted else _INK)
    axes.set_ylim(num_rows - 0.45, -0.55)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 3.0), numticks=9) if chart.is_logarithmic else MaxNLocator(6, steps=[1, 2, 5, 10])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    return figure


def _scatter(chart: Scatter) -> Figure:
    figure = Figure(figsize=(_INCHES[0], 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for one in sorted(chart.spots, key=lambda each: each.is_highlighted):
        colour = _ACCENT if one.is_highlighted else _MUTED
        if math.isfinite(one.low) and math.isfinite(one.high):
            axes.plot([one.x, one.x], [one.low, one.high], color=colour, linewidth=4, alpha=0.3, solid_capstyle="round")
        axes.plot([one.x], [one.y], one.mark, color=colour, markersize=8 if one.is_highlighted else 6)
        if one.label:
            axes.annotate(
                one.label, (one.x, one.y), (7, 5), textcoords="offset points", color=colour, fontsize=_FONT_SIZE - 1
            )
    if chart.level is not None:
        axes.axhline(chart.level, color=_INK, linewidth=1, dashes=(5, 3), zorder=0)
        axes.annotate(
            chart.level_name,
            (0.0, chart.level),
            (4, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=_INK,
        )
    _dress(axes, chart.x_label)
    axes.set_title(_cut(chart.y_label, 70), loc="left", color=_MUTED, fontsize=_FONT_SIZE, pad=10)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.margins(x=0.12, y=0.12)
    return figure


def _draw_interval(axes: Axes, interval: Interval, place: int) -> None:
    colour = _ACCENT if interval.is_highlighted else _MUTED
    has_bounds = math.isfinite(interval.low) and math.isfinite(interval.high)
    bounds = [interval.low, interval.high] if has_bounds else [interval.value, interval.value]
    axes.plot(bounds, [place, place], color=colour, linewidth=6, alpha=0.3, solid_capstyle="round")
    axes.plot([interval.value], [place], "o", color=colour, markersize=7)


def _dress(axes: Axes, x_label: str) -> None:
    axes.set_xlabel(_cut(x_label, 70), color=_MUTED)
    axes.tick_params(colors=_MUTED, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _embedded(drawing: str, words: str, prefix: str) -> str:
    """The drawing as an element of the page: no prologue, ids of its own, colours as variables."""
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing[drawing.index("<svg") :], flags=re.DOTALL)
    drawing = re.sub(r"<!--.*?-->\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{prefix}-", drawing)
    for colour, variable in _VARIABLES.items():
        drawing = drawing.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', drawing)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{escape(words)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, drawing, count=1).strip()


def _short(value: int | float) -> str:
    size = abs(value)
    if not math.isfinite(value):
        return "no number"
    if size < 1e-12:
        return "0"
    if size < 1e-4 or size >= 1e12:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for least, unit, suffix in ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if size >= least:
            return f"{value / unit:.4g}{suffix}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def _cut(text: str, most: int) -> str:
    # A drawing can't wrap its words, and squeezes its axes to nothing beside long ones; `in_words` has the whole.
    return text if len(text) <= most else text[: most - 1] + "…"
