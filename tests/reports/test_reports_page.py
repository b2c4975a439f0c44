import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest

from potstill.errors import RunDirectoryError
from potstill.reports import (
    Card,
    Cell,
    Chart,
    Curve,
    Interval,
    IntervalChart,
    Page,
    Row,
    Table,
    number_cell,
    render,
    share_cell,
    write_report,
)

LOSSES = Chart(
    "Loss",
    "step",
    "nats a token",
    [
        Curve("hard labels", range(5), [5.0, 4.0, 3.5, 3.2, 3.1]),
        Curve("soft labels", range(5), [4.0, 3.0, 2.0, 1.5, 1.2], True),
    ],
    note="On the training text.",
)
ACCURACIES = IntervalChart(
    "Accuracy",
    "% of tokens",
    [Interval("teacher", 61.2, 60.0, 62.5), Interval("distilled", 59.6, 58.0, 61.0, True)],
    reference="teacher",
    decimals=1,
)
PAGE = Page(
    title="a run",
    lead="what it was",
    cards=[Card("kept", "97.4 %", "97.1 – 97.8")],
    tables=[Table("Scores", ["accuracy"], [Row("teacher", [Cell("61.2 %", "60.0 – 62.5")], True)], note="n = 412")],
    curves=[LOSSES, ACCURACIES],
    notes=["3 samples were cut"],
    settings='name = "a run"',
    environment={"torch": "2.13"},
)
VOID = {"meta", "link", "br", "img"}
LOADERS = {"script", "img", "iframe", "object", "embed", "audio", "video", "source", "image", "feimage", "base", "form"}
# Elements the renderer makes itself; anything else came from a user's text.
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "link",
    "style",
    "body",
    "main",
    "header",
    "section",
    "p",
    "h1",
    "h2",
    "small",
}
ALLOWED |= {
    "dl",
    "div",
    "dt",
    "dd",
    "ul",
    "li",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "details",
    "summary",
}
ALLOWED |= {"pre", "figure", "figcaption", "svg", "g", "path", "defs", "clippath", "rect", "text", "use"}


class Reader(HTMLParser):
    """Reads a page strictly: every element closed in order, ids unique, what is loaded and what is said noted down."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_well_formed_and_says_everything() -> None:
    page = Reader(render(PAGE))
    assert page.tags.count("svg") == 2 + 2  # the charts, and the legend of the one with two curves
    said = " ".join(page.words)
    for words in (
        "a run",
        "what it was",
        "97.1 – 97.8",
        "60.0 – 62.5",
        "n = 412",
        "3 samples were cut",
        'name = "a run"',
        "2.13",
    ):
        assert words in said
    assert page.tags.count("caption") == page.tags.count("table") == 1
    assert {value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")} == {"col", "row"}


def test_an_empty_page_is_still_a_page() -> None:
    page = Reader(render(Page("nothing", "")))
    assert not {"section", "dl", "table", "svg", "details"} & set(page.tags)


def test_charts_are_told_in_words() -> None:
    charts = [value for tag, name, value in Reader(render(PAGE)).attributes if (tag, name) == ("svg", "aria-label")]
    assert charts == [
        "Loss. nats a token over step: hard labels goes from 5 to 3.1; soft labels goes from 4 to 1.2.",
        "Accuracy. % of tokens: teacher 61.2 (60 to 62.5); distilled 59.6 (58 to 61).",
    ]


def test_what_users_wrote_never_becomes_markup() -> None:
    nasty = "</pre></style><script src='http://x'>alert(1)</script> & \"'--> $x_1$ <img src=//x> 漢字 \\frac{"
    chart = replace(
        LOSSES, title=nasty, x_label=nasty, y_label=nasty, note=nasty, curves=[Curve(nasty, [1, 2], [1, 2])] * 2
    )
    intervals = replace(ACCURACIES, title=nasty, x_label=nasty, note=nasty, intervals=[Interval(nasty, 1.0, 0.5, 1.5)])
    page = Page(
        nasty,
        nasty,
        cards=[Card(nasty, nasty, nasty)],
        tables=[Table(nasty, [nasty], [Row(nasty, [Cell(nasty, nasty)])], names=nasty, note=nasty)],
        curves=[chart, intervals],
        notes=[nasty],
        settings=nasty,
        environment={nasty: nasty},
    )
    read = Reader(render(page))
    assert set(read.tags) <= ALLOWED
    assert sum(nasty in words for words in read.words) >= 15
    assert sum(nasty in value for _, name, value in read.attributes if name == "aria-label") == 2


def test_the_page_loads_nothing() -> None:
    text = render(PAGE)
    page = Reader(text)
    assert not LOADERS & set(page.tags)
    links = {value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "data", "action")}
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "://" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    policy = [value for tag, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_every_reference_inside_a_drawing_has_its_target() -> None:
    text = render(PAGE)
    ids = set(Reader(text).ids)
    references = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert references
    assert references <= ids


def test_both_schemes_colour_text_and_drawings() -> None:
    text = render(PAGE)
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"(--[a-z]+):", light))
    assert names == set(re.findall(r"(--[a-z]+):", dark))
    assert set(re.findall(r"var\((--[a-z]+)\)", text)) <= names
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert {"--ink", "--muted", "--line", "--accent"} <= set(re.findall(r"var\((--[a-z]+)\)", drawings))
    assert re.findall(r"#[0-9a-fA-F]{6}\b", drawings) == []


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_the_contrast_that_accessibility_asks_for() -> None:
    style = render(Page("", ""))
    for scheme in style.split("@media (prefers-color-scheme: dark)"):
        colours = dict(re.findall(r"(--[a-z]+): (#[0-9a-f]{6})", scheme))
        for text in ("--ink", "--muted", "--accent"):
            for paper in ("--paper", "--raised", "--tint"):
                dark, light = sorted((_luminance(colours[text]), _luminance(colours[paper])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, paper)


def test_equal_pages_give_equal_bytes_and_leave_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    first = render(PAGE)
    assert render(PAGE) == first
    assert dict(matplotlib.rcParams) == before
    assert render(replace(PAGE, curves=[replace(LOSSES, title="other")])) != first


def test_many_points_are_averaged_and_the_page_says_so() -> None:
    long = Curve("loss", range(5000), [math.sin(i) for i in range(5000)], True)
    text = render(Page("", "", curves=[Chart("Loss", "step", "nats", [long])]))
    assert len(text) < 60_000
    assert "means of about 31 neighbouring points" in text
    assert "neighbouring points" not in render(PAGE)


@pytest.mark.parametrize("is_logarithmic", [False, True])
def test_what_is_no_number_leaves_a_gap_and_no_mistake(is_logarithmic: bool) -> None:
    values = [math.nan, math.inf, 0.0, -1.0, 2.0]
    curves = [Curve("a", range(5), values), Curve("empty", [], []), Curve("one", [1.0], [1.0], True)]
    intervals = [
        Interval("a", math.nan, math.nan, math.nan),
        Interval("b", 0.0, 0.0, 0.0),
        Interval("c", 2.0, 1.0, math.inf),
    ]
    chart = Chart("Loss", "step", "nats", curves, is_logarithmic=is_logarithmic)
    compared = IntervalChart("KL", "nats", intervals, is_logarithmic=is_logarithmic)
    nothing = [Chart("none", "x", "y", []), IntervalChart("none", "x", [], is_logarithmic=is_logarithmic)]
    page = Reader(render(Page("", "", curves=[chart, compared, *nothing])))
    assert "–" in page.words
    assert "2.000" in page.words


def test_figures_are_shown_with_their_intervals() -> None:
    assert number_cell(1234.5, 1200.0, 1260.06, decimals=1) == Cell("1,234.5", "1,200.0 – 1,260.1")
    assert share_cell(0.974, 0.971, 0.978) == Cell("97.4 %", "97.1 – 97.8")
    assert number_cell(math.inf, 1.0, math.inf) == share_cell(math.nan, 0.0, 1.0) == Cell("–")


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_report(PAGE, tmp_path / "report.html")
    assert path.read_text("utf-8") == render(PAGE)
    with pytest.raises(RunDirectoryError, match="can't write the report"):
        write_report(PAGE, tmp_path / "nowhere" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunDirectoryError, match="can't write the report"):
        write_report(PAGE, tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "taken"]
