"""Every figure of docs/claims.md stands, with its interval, in a table that its section links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "claims.md"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
WITH_INTERVAL = re.compile(r"[+-]?\d[\d,.]*%? \([+-]?\d[\d,.]*%? to [+-]?\d[\d,.]*%?(?=\))")


def sections() -> dict[str, str]:
    """What stands under each heading, those without a table of figures left out."""
    parts = re.split(r"^## (.*)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return {name: text for name, text in zip(parts[1::2], parts[2::2], strict=True) if "\n| ---" in text}


def plain(text: str) -> str:
    """One way of writing a figure: no bold, no sign above zero, `%` at its number, `to` between bounds."""
    text = re.sub(r"\*\*|\+(?=\d)", "", text).replace("−", "-")
    return re.sub(r"(?<=[\d%]) [–-] (?=[\d+-])", " to ", re.sub(r"(?<=\d)[  ]%", "%", text))


def said(section: str) -> str:
    """A section without its quotes, commands, links' targets, and names that have digits."""
    text = re.sub(r"^```.*?^```$|^>[^\n]*$", "", section, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "", text))
    return plain(re.sub(r"SmolLM2(-135M)?", "", text))


def linked(section: str) -> str:
    """The benchmarks' pages that a section links, together."""
    paths = re.findall(r"\]\(\.\./(benchmarks/\w+\.md)\)", section)
    assert paths, "no table is linked"
    return plain("\n".join((ROOT / path).read_text("utf-8") for path in paths))


def missing(section: str, tables: str) -> list[str]:
    """Figures of a section that its tables don't have."""
    text, there = said(section), set(NUMBER.findall(tables))
    pairs = [found for found in WITH_INTERVAL.findall(text) if found not in tables]
    return pairs + [number for number in NUMBER.findall(text) if number.rstrip(",") not in there]


@pytest.mark.parametrize("name", sections())
def test_a_claims_figures_are_those_of_its_tables(name: str):
    assert NUMBER.search(said(sections()[name]))
    assert missing(sections()[name], linked(sections()[name])) == []


@pytest.mark.parametrize("name", sections())
def test_a_claim_has_its_quote_its_control_and_its_command(name: str):
    section = sections()[name]
    assert re.search(r"^> ", section, re.MULTILINE)
    assert "ontrol" in section or "minus" in section
    assert "```sh" in section or "as above" in section
    assert re.search(r"^[^|>\n]*\*\*", section, re.MULTILINE), "no verdict"


def test_the_list_of_claims_names_them_all():
    head = PAGE.read_text("utf-8").partition("\n## ")[0]
    assert re.findall(r"\| \[(.*?)\]", head) == re.findall(r"^## (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)


def test_a_stale_figure_is_noticed():
    tables = plain("| right | 36.6 % (34.6 – 38.7) | +0.163 (-0.136 to +0.185) | **3.52** |")
    assert missing("| right | 36.6% (34.6 to 38.7) | 0.163 (-0.136 to +0.185) | 3.52 |", tables) == []
    assert missing("| right | 36.6% (34.7 to 38.7) |", tables) == ["36.6% (34.7 to 38.7", "34.7"]
    assert missing("3.53 times,\n> 4.4 claimed\n\nnot 36.6 ones\n```sh\n--keep 5\n```\nnor 7.1", tables) == [
        "3.53",
        "7.1",
    ]


def test_the_readmes_table_of_peers_is_the_one_with_the_evidence():
    _, table, _ = (ROOT / "benchmarks" / "peers_features.md").read_text("utf-8").split("<!-- table -->")
    assert table in (ROOT / "README.md").read_text("utf-8")


def test_the_readmes_picture_is_of_its_table():
    picture = (ROOT / "docs" / "pictures" / "quality_by_size.svg").read_text("utf-8")
    [words] = re.findall(r'aria-label="([^"]*)"', picture)
    rows = [
        line.split("|")[1:-1] for line in (ROOT / "benchmarks" / "quality_by_size.md").read_text("utf-8").splitlines()
    ]
    first, *_, last = [row for row in rows if len(row) == 5 and "(" in row[2]]
    ends = [(first[column].split("%")[0].strip(), last[column].split("%")[0].strip()) for column in (2, 3, 4)]
    assert re.findall(r"goes from (\d+\.?\d*) to (\d+\.?\d*)", words) == [
        tuple(f"{float(one):g}" for one in end) for end in ends
    ]


def test_the_pictures_of_the_readme_are_there():
    sources = re.findall(r'src="([^"]*)"', (ROOT / "README.md").read_text("utf-8"))
    assert len(sources) >= 2
    assert [source for source in sources if not (ROOT / source).is_file()] == []
