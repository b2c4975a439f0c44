"""`potstill report` as its user sees it: pages made again from the files of runs, and what is said of damaged ones."""

from __future__ import annotations

import json
import re

from commands import Workshop


def test_reports_are_made_again_and_compared(workshop: Workshop) -> None:
    assert workshop.run("distill", "recipe.toml", "-o", "one", "-s", "evaluation.speed=true").exit_code == 0
    assert workshop.run("distill", "recipe.toml", "-o", "other").exit_code == 0
    before = (workshop.path / "one" / "report.html").read_text()
    (workshop.path / "one" / "report.html").unlink()
    assert workshop.run("report", "one").exit_code == 0
    again = (workshop.path / "one" / "report.html").read_text()
    assert "On held-out text" in again
    speeds = re.search(r"<table[^>]*>(?:(?!<table).)*decode, tokens/s.*?</table>", before, re.DOTALL)
    assert speeds is not None
    assert speeds[0] in again
    assert workshop.run("report", "one", "other").exit_code == 0
    page = (workshop.path / "comparison.html").read_text()
    assert "one, distilled" in page
    assert "other, hard labels" in page
    assert workshop.run("report", "one", "other", "-o", "cmp").exit_code == 0
    assert not (workshop.path / "cmp").exists()
    assert (workshop.path / "cmp.html").read_text() == page
    assert "always one/report.html" in workshop.refused("report", "one", "-o", "page.html")
    manifest, scores = (workshop.path / "one" / name for name in ("manifest.json", "scores.json"))
    manifest.write_text('{"cut": ')
    assert "manifest.json can't be read" in workshop.refused("report", "one")
    manifest.write_text("{}")
    found = json.loads(scores.read_text())
    for damage in ({}, {"models": {}}, {**found, "sizes": {}}, {**found, "speeds": {"teacher": {"fast": True}}}):
        scores.write_text(json.dumps(damage))
        assert "scores.json" in workshop.refused("report", "one")
    scores.write_text(json.dumps({**found, "sizes": {}}))
    assert "it has no 'teacher'" in workshop.refused("report", "one", "other")
    scores.write_text(json.dumps({"models": {}}))
    assert "no scores of a distilled student" in workshop.refused("report", "one", "other")
