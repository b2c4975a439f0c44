"""Annealing and the gate through the command line: what is printed, kept and refused."""

from __future__ import annotations

import json

from commands import Workshop

QUICK = ("-s", "evaluation.untouched=false")
GATE = ("-s", "data.search=0.2", "-s", "teacher.gate.share=0.5")


def test_a_run_says_how_alpha_falls_and_what_the_teacher_was_worth(workshop: Workshop):
    result = workshop.run("distill", "recipe.toml", "-o", "run", *QUICK, *GATE, "-s", "loss.annealing.over=0.5")
    assert result.exit_code == 0, (result.output, result.exception)
    said = " ".join(result.output.split())
    assert "alpha goes from 1 to 0 over 50% of the steps" in said
    assert "gate The teacher needs" in said
    assert said.count("a student of labels alone") == 2  # beforehand, and at the end
    steps = [json.loads(line) for line in (workshop.path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [step["alpha"] for step in steps] == [1.0, 0.0, 0.0, 0.0]
    scores = json.loads((workshop.path / "run" / "scores.json").read_text())
    assert scores["worth"]["verdict"] in ("worth", "unclear", "not")
    page = (workshop.path / "run" / "report.html").read_text()
    assert "Share of the teacher" in page
    assert "a student of labels alone" in page
    (workshop.path / "run" / "report.html").unlink()
    again = workshop.run("report", "run")
    assert again.exit_code == 0, (again.output, again.exception)
    assert "a student of labels alone" in (workshop.path / "run" / "report.html").read_text()


def test_without_annealing_no_share_is_drawn(workshop: Workshop):
    result = workshop.run("distill", "recipe.toml", "-o", "run", *QUICK, "-s", "loss.alpha=0.5")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "anneals" not in result.output
    assert "Share of the teacher" not in (workshop.path / "run" / "report.html").read_text()


def test_a_gate_refuses_with_one_message_and_one_that_anneals_goes_on(workshop: Workshop):
    """The workshop's teacher has random weights: labels alone are ahead at once."""
    refuse, anneal = ("-s", 'teacher.gate.then="refuse"'), ("-s", 'teacher.gate.then="anneal"')
    message = workshop.refused("distill", "recipe.toml", "-o", "run", *QUICK, *GATE, *refuse, "-s", "training.steps=12")
    assert "a student of labels alone knows this text better than the teacher" in message
    result = workshop.run("distill", "recipe.toml", "-o", "run", *QUICK, *GATE, *anneal, "-s", "training.steps=12")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "alpha goes to 0 over this run (teacher.gate)" in result.output
    assert "[loss.annealing]" in result.output


def test_what_a_gate_takes_is_known_beforehand(workshop: Workshop):
    assert "for the gate" not in workshop.run("check", "recipe.toml").output
    assert "for the gate before it" in " ".join(workshop.run("check", "recipe.toml", *GATE).output.split())


def test_a_gate_without_documents_to_ask_is_refused(workshop: Workshop):
    message = workshop.refused(
        "distill", "recipe.toml", "-o", "run", "-s", "data.search=0.0001", "-s", "teacher.gate.share=0.5"
    )
    assert "teacher.gate" in message
    assert "raise it" in message
