"""`potstill write` with a model here, and what comes after it."""

import json
from pathlib import Path

import pytest
from commands import Workshop, set_up

RECIPE = """
[writer]
kind = "local"
model = "teacher"
rows = 4
[prompts]
source = "prompts.jsonl"
[sampling]
temperature = 1.5
max_new_tokens = 12
best_of = 2
[output]
cut = true
"""


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.toml").write_text(RECIPE)
    rows = [{"prompt": f"number {n} is"} for n in range(30)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return set_up(tmp_path)


def rows_of(workshop: Workshop) -> list[dict]:
    text = (workshop.path / "runs" / "w" / "written.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_what_was_written_is_learned(workshop):
    plan = workshop.run("write", "w.toml", "--dry-run")
    assert "30, of which 0 are written" in plan.output
    assert "at most 720 to write (2 × 30 samples of 12)" in plan.output
    assert not (workshop.path / "runs").exists()
    assert (done := workshop.run("write", "w.toml")).exit_code == 0, done.output
    first, journal = rows_of(workshop), (workshop.path / "runs" / "w" / "journal.jsonl").read_bytes()
    assert len(first) == 30
    assert "refused: not the best" in done.stdout
    both = workshop.run(
        "write", "w.toml", "-s", "output.keep=all", "-s", 'filters=[{kind="length", max_characters=200}]'
    )
    assert both.exit_code == 0, both.output
    assert "nothing was missing" in both.stderr
    assert len(rows_of(workshop)) == 60
    assert (workshop.path / "runs" / "w" / "journal.jsonl").read_bytes() == journal
    said = workshop.run("write", "w.toml", "-s", "sampling.seed=1")
    assert said.exit_code == 2
    assert "was written with sampling" in said.stderr.replace("\n", " ")
    learned = workshop.run("distill", "recipe.toml", "-s", "data.source=runs/w/written.jsonl", "-s", "loss.alpha=0.5")
    assert learned.exit_code == 0, learned.output
    assert (workshop.path / "runs" / "recipe" / "student" / "model.safetensors").exists()


def test_texts_that_were_cut_are_told_with_a_way_out(workshop):
    done = workshop.run("write", "w.toml", "-s", "output.cut=false", "-s", "sampling.max_new_tokens=1")
    said = " ".join(done.stdout.split())
    assert "were not at their end after 1 tokens" in said
    assert (
        "raise sampling.max_new_tokens (with a folder of its own, -o), or keep them without an end: output.cut = true"
        in said
    )
    kept = workshop.run("write", "w.toml", "-s", "sampling.max_new_tokens=1")
    assert kept.exit_code == 0, kept.output
    assert "not at their end" not in kept.stdout
    assert "nothing was missing" in kept.stderr


def test_a_starter_leads_on(workshop):
    assert "potstill write --dry-run write.toml" in workshop.run("recipes", "write").output
    sets = ["-s", "writer.model=teacher", "-s", "sampling.max_new_tokens=8", "-s", "output.cut=true"]
    assert (done := workshop.run("write", "write.toml", "-o", "out", *sets)).exit_code == 0, done.output
    assert (workshop.path / "out" / "manifest.json").exists()
