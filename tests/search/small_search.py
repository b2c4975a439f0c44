"""A whole search that takes seconds, on the pocket teacher; run as a program, to be killed: small_search.py FOLDER TEXTS."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from potstill.recipe import decode
from potstill.recipe.schema import Recipe
from potstill.recipe.searching import build_search
from potstill.search import Chosen, Search
from potstill.search.findings import findings
from potstill.search.four_bits import FourBits, in_four_bits


def texts(folder: Path, count: int = 90) -> Path:
    """Beginnings of modules of the standard library."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:count]
    for module in modules:
        (folder / module.name).write_text(module.read_text("utf-8", "replace")[:1500], "utf-8")
    return folder


def recipe(source: Path, **changes: object) -> Recipe:
    """Two sizes, two cuts, sixteen steps."""
    student = {
        "kind": "search",
        "bars": [{"least": 0.5}],
        "shares": [0.5, 0.85],
        "cuts": ["width", "depth"],
        "tokens": 2000,
    }
    table: dict[str, object] = {
        "name": "small",
        "teacher": {"model": "pocket"},
        "student": student | changes.pop("student", {}),  # type: ignore[operator]
        "data": {"source": str(source), "held_out": 0.2, "search": 0.15},
        "training": {"steps": 16, "length": 64, "rows": 2, "dtype": "float32", "checkpoint_every": 3},
        "evaluation": {"tokens": 3000, "speed": False},
    }
    return decode(table | changes)


def run(search: Search) -> dict[str, object]:
    """To the end; what it found, written as `potstill compress` does."""
    chosen, four = None, None
    for event in search.run():
        chosen = event if isinstance(event, Chosen) else chosen
    assert chosen is not None
    for event in in_four_bits(search, chosen.candidate.name):
        four = event if isinstance(event, FourBits) else four
    found = findings(search, chosen.candidate.name, holds=chosen.holds, four_bits=four)
    search.folder.write_json("scores.json", found)
    return found


if __name__ == "__main__":
    run(build_search(recipe(Path(sys.argv[2])), Path(sys.argv[1]), say=lambda _: None))
