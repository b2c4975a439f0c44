"""A student tried as a draft from the command line: figures, a page, and refusals."""

from __future__ import annotations

import json

from commands import Workshop

DRAFT = ("draft", "teacher", "teacher", "--new-tokens", "8", "--prompt-tokens", "4", "--longest", "3")


def test_a_draft_is_predicted_and_measured(workshop: Workshop):
    result = workshop.run(*DRAFT, "--prompts", "text.jsonl", "--most", "3", "--lengths", "2", "--out", "draft")
    assert result.exit_code == 0, result.output
    found = json.loads((workshop.path / "draft" / "draft.json").read_text())
    greedy, drawn = found["trials"]
    assert (greedy["temperature"], drawn["temperature"]) == (0.0, 1.0)
    assert greedy["rate"]["value"] == 1.0
    assert drawn["rate"]["value"] > 0.9999
    assert all(one["draft_acceptance_rate"] == 1.0 for one in greedy["measured"])
    assert all(one["same"] == one["texts"] == 3 for one in greedy["measured"])
    assert [one["length"] for one in greedy["expected"]] == [1, 2, 3]
    page = (workshop.path / "draft" / "report.html").read_text()
    assert "Speed-up by draft length" in page


def test_prompts_from_rows_with_domains(workshop: Workshop):
    rows = [{"prompt": f"{name} number {number}", "domain": name} for name in ("sea", "land") for number in range(2)]
    (workshop.path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = workshop.run(*DRAFT, "--prompts", "prompts.jsonl", "--temperature", "0", "--out", "draft")
    assert result.exit_code == 0, result.output
    [greedy] = json.loads((workshop.path / "draft" / "draft.json").read_text())["trials"]
    assert set(greedy["domains"]) == {"sea", "land"}


def test_what_makes_no_sense_is_refused(workshop: Workshop):
    for words, message in (
        (("--lengths", "two"), "whole numbers"),
        (("--lengths", "9"), "between 1 and --longest"),
        (("--teacher-gguf", "t.gguf"), "needs both files"),
        (("--new-tokens", "5000"), "longer than the context"),
    ):
        assert message in workshop.refused(*DRAFT, "--prompts", "text.jsonl", *words, "--out", "draft")
    assert "nowhere.jsonl" in workshop.refused(*DRAFT, "--prompts", "nowhere.jsonl", "--out", "draft")
