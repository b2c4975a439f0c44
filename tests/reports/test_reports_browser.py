"""The page in a real browser, where there is one: it lays out, loads nothing, and says what it shows."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from potstill.reports import Card, Chart, Code, Curve, MarkedText, Page, Row, Scatter, Spot, Strip, Table, Token, render
from potstill.reports.page import Cell

BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
PAGE = Page(
    title="A <page>",
    lead="with everything in it",
    cards=(Card("kept", "95 %", "94 – 96"),),
    tables=(Table("Figures", ["one"], [Row("a", [Cell("1", "0 – 2")], True)], "name"),),
    curves=(
        Scatter(
            "Sizes",
            "size",
            "kept",
            [Spot("small", 1.0, 0.9, 0.8, 1.0), Spot("", 2.0, 1.0, 1.0, 1.0, "s")],
            {"o": "b", "s": "c"},
            0.95,
            "bar",
        ),
        Chart("Learning", "tokens", "nats", [Curve("a", [1, 2], [2, 1])]),
    ),
    parts=(
        Strip("Layers", [("0", True), ("1", False)]),
        MarkedText("Words", [("a.txt", [Token("def"), Token(" <f>", "lost", "teacher: '<f>'")])], {"lost": "lost it"}),
        Code("Load", "from x import <y>\n"),
    ),
)


def test_everything_is_said_in_words_as_well() -> None:
    """Pictures have a text, marks a word, and nothing a user wrote becomes markup."""
    html = render(PAGE)
    assert len(re.findall(r'role="img" aria-label="[^"]{5,}"', html)) == 3
    assert "kept: 0" in html
    assert "lost it" in html
    assert "<f>" not in html
    assert "<page>" not in html
    assert 'tabindex="0"' in html


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it(tmp_path: Path, width: int) -> None:
    """No errors, nothing asked of the network, no sideways scrolling on a telephone or a desk."""
    html = render(PAGE).replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    figures = "document.documentElement.scrollWidth + ' of ' + innerWidth + ', ' + performance.getEntriesByType('resource').length"
    probe = f"<script>document.title = {figures}</script></body>"
    (tmp_path / "page.html").write_text(html.replace("</body>", probe), "utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    said = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    title = re.search(r"<title>(\d+) of (\d+), (\d+)</title>", said.stdout)
    assert title is not None
    wide, there, asked = map(int, title.groups())
    assert wide <= there
    assert asked == 0
