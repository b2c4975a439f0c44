"""Several teachers, one's own average and runs made of runs, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Workshop
from safetensors.torch import load_file
from tiny_job import tiny_llama
from tiny_models import byte_tokenizer

QUICK = ("-s", "training.steps=2", "-s", "evaluation.control=false", "-s", "evaluation.untouched=false")
MIXED = ("-s", 'teacher.mixture.others=[{ model = "other" }]')


@pytest.fixture
def two(workshop: Workshop) -> Workshop:
    """A workshop with a second teacher, and records that name one of the two."""
    tiny_llama(seed=1).save_pretrained(workshop.path / "other")
    byte_tokenizer().save_pretrained(workshop.path / "other")
    lines = (workshop.path / "text.jsonl").read_text().splitlines()
    named = [json.loads(line) | {"teacher": ("teacher", "other")[n % 2]} for n, line in enumerate(lines)]
    (workshop.path / "text.jsonl").write_text("".join(json.dumps(record) + "\n" for record in named))
    return workshop


def student_in(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "student" / "model.safetensors")


def run(workshop: Workshop, out: str, *words: str) -> dict[str, torch.Tensor]:
    result = workshop.run("distill", "recipe.toml", "-o", out, *QUICK, *words)
    assert result.exit_code == 0, (result.output, result.exception)
    return student_in(workshop.path / out)


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in one)


def test_teachers_mark_together_or_each_its_own_and_each_way_teaches_something_else(two: Workshop):
    dense = ("-s", "labels.tier=hidden", "-s", "labels.bits=8")
    alone = run(two, "alone")
    mixed = run(two, "mixed", *MIXED)
    assert differ(alone, mixed)
    routed = run(two, "routed", *MIXED, "-s", "teacher.mixture.by=column")
    assert differ(routed, mixed)
    assert differ(routed, alone)
    assert differ(run(two, "confident", *MIXED, "-s", "teacher.mixture.by=confidence"), mixed)
    lean = run(two, "lean", *MIXED, *dense, "-s", "teacher.mixture.one_at_a_time=true")
    folders = sorted(path.name for path in (two.path / "lean" / "soft_labels").iterdir())
    assert folders == ["other", "teacher"]
    for name, tensor in mixed.items():  # AdamW's first steps make much of the little that 8 bits change
        assert (lean[name] - tensor).abs().mean() < 2e-4, name
    again = two.run(
        "distill", "recipe.toml", "-o", "lean", *QUICK, *MIXED, *dense, "-s", "teacher.mixture.one_at_a_time=true"
    )
    assert again.exit_code == 0, again.output


def test_a_record_that_names_no_teacher_of_the_mixture_is_refused(two: Workshop):
    column = (*MIXED, "-s", "teacher.mixture.by=column")
    said = two.refused("distill", "recipe.toml", "-o", "a", *column, "-s", "teacher.mixture.name=first")
    assert "names the teacher 'teacher', and there are first, other" in said
    said = two.refused("distill", "recipe.toml", "-o", "b", *column, "-s", "data.columns.teacher=who")
    assert "names no teacher" in said


def test_a_teacher_of_another_vocabulary_is_refused(two: Workshop):
    strange = byte_tokenizer(extra=("<|a|>",))
    vocabulary = json.loads(strange.backend_tokenizer.to_str())
    swapped = vocabulary["model"]["vocab"]
    swapped["a"], swapped["b"] = swapped["b"], swapped["a"]
    (two.path / "other" / "tokenizer.json").write_text(json.dumps(vocabulary))
    said = two.refused("distill", "recipe.toml", "-o", "a", *MIXED)
    assert "differ first at id" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*MIXED, "-s", "teacher.mixture.one_at_a_time=true", "-s", "teacher.mixture.of=logits"), "labels.tier"),
        (("-s", "teacher.average={}"), "nothing to learn"),
        (("-s", "evaluation.smoothing=true", "-s", "loss.alpha=0"), "it has none"),
        ((*MIXED, "-s", "loss.hidden={}"), "one teacher's hidden states"),
    ],
)
def test_ways_that_exclude_each_other_are_refused(words, said, two: Workshop):
    assert said in two.refused("distill", "recipe.toml", "-o", "a", *words)


def test_others_are_looked_at_before_anything_is_trained(two: Workshop):
    """`check` sees what `distill` would refuse, `label` doesn't label for one of several, and a stranger's folder is left alone."""
    assert "nothing" in two.refused("check", "recipe.toml", "-s", 'teacher.mixture={others=[{model="./nothing"}]}')
    assert "stores what teacher.model says by itself" in two.refused("label", "recipe.toml", *MIXED)
    (two.path / "home").mkdir()
    (two.path / "home" / "thesis.txt").write_text("precious")
    lean = ("-s", "teacher.mixture.one_at_a_time=true")
    assert "thesis.txt" in two.refused("distill", "recipe.toml", "-o", "home", *QUICK, *MIXED, *lean)
    assert sorted(path.name for path in (two.path / "home").iterdir()) == ["thesis.txt"]


def test_a_plan_lets_no_teacher_label(two: Workshop):
    lean = ("-s", "teacher.mixture.one_at_a_time=true", "-s", "labels.tier=hidden")
    planned = two.run("plan", "recipe.toml", *QUICK, *MIXED, *lean)
    assert planned.exit_code == 0, (planned.output, planned.exception)
    assert "labels the text" not in planned.output
    assert "left out: other teachers" in planned.output


def test_the_average_and_smoothed_labels_stand_in_the_scores(two: Workshop):
    half = ("-s", "loss.alpha=0.5", "-s", "evaluation.smoothing=true")
    averaged = run(two, "average", "-s", "teacher.average.decay=0.5", *half)
    assert differ(averaged, run(two, "alone", "-s", "loss.alpha=0.5"))
    scores = json.loads((two.path / "average" / "scores.json").read_text())
    assert list(scores["models"]) == ["teacher", "smoothed_labels", "distilled"]
    assert "smoothed labels" in (two.path / "average" / "report.html").read_text()


def test_generations_go_on_where_they_were_and_end_as_if_they_had_not_been_killed(two: Workshop):
    words = ("-s", 'stages={ kind = "generations", count = 1 }', "-s", "loss.alpha=0.5")
    checked = " ".join(two.run("check", "recipe.toml", *QUICK, *words).output.split())
    assert (
        "stages 3, one after another: generation-0 to generation-1, each 2 steps; direct 4 steps: 8 steps in all"
        in checked
    )
    whole = two.run("distill", "recipe.toml", "-o", "whole", *QUICK, *words)
    assert whole.exit_code == 0, (whole.output, whole.exception)
    assert "against direct, as long as all stages together: perplexity" in " ".join(whole.output.split())
    assert "table whole/stages.md" in " ".join(whole.output.split())
    assert whole.output.count("potstill export ") == 1
    assert "potstill export whole/stages/generation-1 --to gguf" in whole.output
    said = " ".join(two.refused("report", "whole").split())
    assert "is a run of stages, whose table is whole/stages.md" in said
    assert "whole/stages/generation-0 whole/stages/generation-1 whole/stages/direct`" in said
    stages = ["generation-0", "generation-1", "direct"]
    assert sorted(path.name for path in (two.path / "whole" / "stages").iterdir()) == sorted(stages)
    rows = json.loads((two.path / "whole" / "stages.json").read_text())
    assert list(rows["models"]) == ["teacher", *stages]
    assert rows["stages"][1] == {"name": "generation-1", "teachers": ["generation-0"], "steps": 2}
    assert rows["stages"][2]["steps"] == 4
    assert "generation-1" in (two.path / "whole" / "stages.md").read_text()
    # As after a kill in the last stage but one, whose students and measurements were not written yet.
    shutil.copytree(two.path / "whole", two.path / "killed")
    for place in ("stages/direct", "overview", "stages/generation-1/student", "stages/generation-1/measurements"):
        shutil.rmtree(two.path / "killed" / place)
    (two.path / "killed" / "stages" / "generation-1" / "scores.json").unlink()
    # Paths of earlier students are part of a stage's recipe, so it resumes under its own name.
    shutil.rmtree(two.path / "whole")
    shutil.copytree(two.path / "killed", two.path / "whole")
    resumed = two.run("distill", "recipe.toml", "-o", "whole", *QUICK, *words)
    assert resumed.exit_code == 0, (resumed.output, resumed.exception)
    assert resumed.output.count("finished before") == 1
    again = json.loads((two.path / "whole" / "stages.json").read_text())
    assert again["models"]["direct"] == rows["models"]["direct"]
    assert again["models"]["generation-1"] == rows["models"]["generation-1"]
    said = two.refused("distill", "recipe.toml", "-o", "whole", *QUICK, *words, "-s", "training.seed=5")
    assert "belongs to another run" in said


def test_an_ensemble_is_measured_together(two: Workshop):
    words = ("-s", 'stages={ kind = "ensemble", copies = 2, first = "teacher", direct = false }')
    done = two.run("distill", "recipe.toml", "-o", "ensemble", *QUICK, *words)
    assert done.exit_code == 0, (done.output, done.exception)
    rows = json.loads((two.path / "ensemble" / "stages.json").read_text())["models"]
    assert list(rows) == ["teacher", "copy-1", "copy-2", "student", "copy-1 to copy-2 together"]
    one, other, both = (rows[name]["scores"]["nats_per_token"]["value"] for name in list(rows)[1:3] + list(rows)[4:])
    assert both <= (one + other) / 2  # the mean of probabilities is never worse than its members on average
