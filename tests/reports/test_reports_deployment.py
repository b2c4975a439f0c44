"""What lies in a run's folder is shown; what was not measured to the end is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from potstill.errors import DataError
from potstill.reports.deployment import deployment_tables, is_anothers

MEASURED = {
    "format": "GGUF q8_0",
    "engine": "llama.cpp",
    "good": True,
    "why": "",
    "bytes": {"blocks": 2_000_000},
    "scores": {"KL to the student, nats": 0.0002, "same first choice as the student": 0.99, "perplexity": 23.9},
    "speeds": {"export": {"prefill_tokens_per_second": 10.0, "decode_tokens_per_second": 5.0}},
}


def leave(folder: Path, name: str, facts: object) -> None:
    (folder / name).mkdir()
    (folder / name / "export.json").write_text(json.dumps(facts))


def test_exports_that_were_measured_are_shown(tmp_path: Path) -> None:
    assert list(deployment_tables(tmp_path)) == []
    leave(tmp_path, "export-f16", {"good": False, "why": "it wasn't measured to the end"})
    assert list(deployment_tables(tmp_path)) == []
    leave(tmp_path, "export-q8_0", MEASURED)
    [table] = deployment_tables(tmp_path)
    [row] = table.rows
    assert row.name == "GGUF q8_0, llama.cpp"
    assert [cell.value for cell in row.cells] == ["2.0", "0.0002", "99.0%", "23.90", "5", "good"]


def test_what_the_student_may_answer_is_shown(tmp_path: Path) -> None:
    found = {
        "source": "next tokens of held-out text",
        "answering": "token",
        "said": "The student answers 58.3% of the queries.",
        "promise": {"share": 0.583, "kept": 0.988},
        "random": {"same_promise": 0.3},
        "figures": {"teacher": {"value": 0.4}, "student": {"value": 0.36}},
        "cost": {"relative": 1.03},
    }
    (tmp_path / "route").mkdir()
    (tmp_path / "route" / "route.json").write_text(json.dumps(found))
    assert list(deployment_tables(tmp_path)) == []  # the policy is written last
    (tmp_path / "route" / "policy.json").write_text("{}")
    [table] = deployment_tables(tmp_path)
    assert [[cell.value for cell in row.cells] for row in table.rows] == [
        ["58.3%", "98.8%"],
        ["30.0%", "97.0%"],
        ["100.0%", "90.0%"],
    ]
    for said in (
        str(found["said"]),
        "next tokens of held-out text",
        "takes 103% of",
        "Of whole answers nothing is promised",
    ):
        assert said in table.note
    asked = found | {"answering": "choice", "cost": None, "source": "before/it/was/moved/route/queries.jsonl"}
    (tmp_path / "route" / "queries.jsonl").touch()
    (tmp_path / "route" / "route.json").write_text(json.dumps(asked))
    [table] = deployment_tables(tmp_path)
    assert "the questions that it was judged by" in table.note
    assert "whole answers" not in table.note
    (tmp_path / "route" / "route.json").write_text(json.dumps(asked | {"source": "mine.jsonl"}))
    [table] = deployment_tables(tmp_path)
    assert "Queries: mine.jsonl;" in table.note
    (tmp_path / "route" / "route.json").write_text(json.dumps({"promise": found["promise"]}))
    with pytest.raises(DataError, match=r"route.json has no 'source', .* calibrate again"):
        list(deployment_tables(tmp_path))


@pytest.mark.parametrize(
    ("files", "is_mine"),
    [
        ({}, False),
        ({"answers": ""}, True),
        ({"policy.json": "{}"}, True),
        ({"answers": "", "queries.jsonl": ""}, False),
        ({"route.json": '{"source": "next tokens of held-out text"}', "policy.json": "{}"}, False),
        ({"route.json": '{"source": "runs/x/route/queries.jsonl"}', "queries.jsonl": ""}, False),
        ({"route.json": '{"source": "route/queries.jsonl"}'}, True),
        ({"route.json": '{"source": "mine.jsonl"}', "queries.jsonl": ""}, True),
    ],
)
def test_whose_queries_a_router_is_of(files: dict[str, str], is_mine: bool, tmp_path: Path) -> None:
    route = tmp_path / "route"
    route.mkdir()
    for name, content in files.items():
        (route / name).write_text(content)
    assert is_anothers(route) == is_mine


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    leave(tmp_path, "export-q8_0", MEASURED)
    for content in ("{", "[]"):
        (tmp_path / "export-q8_0" / "export.json").write_text(content)
        with pytest.raises(DataError, match="is damaged"):
            list(deployment_tables(tmp_path))
