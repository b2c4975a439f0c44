"""Labels stored, looked at, and learned from; and what is said when they don't fit."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
from commands import Workshop
from rich.console import Console

from potstill.cli.labelling import watched
from potstill.soft_labels import SUMS, Progress

STORED = ("--set", "teacher.kind=stored")


def test_label_inspect_and_learn_from_what_is_stored(workshop: Workshop):
    result = workshop.run("label", "recipe.toml")
    assert result.exit_code == 0, result.output
    for said in ("predictions to label: about", "labelled", "tokens/s", "perplexity", "entropy", "bytes each"):
        assert said in result.output
    folder = workshop.path / "runs" / "recipe" / "soft_labels"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = workshop.run("label", "recipe.toml")
    assert "nothing was missing" in again.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files

    looked = workshop.run("inspect", folder, "--recipe", "recipe.toml", "--tokens", "5", "--html", "page.html")
    assert looked.exit_code == 0, looked.output
    for said in ("Sampled(tau=0.05)", "bytes a prediction", "hard labels a prediction", "the teacher's likeliest"):
        assert said in looked.output
    assert (workshop.path / "page.html").read_text().count("<span") == 5

    learned = workshop.run("distill", "recipe.toml", *STORED)
    assert learned.exit_code == 0, learned.output
    run = workshop.path / "runs" / "recipe"
    live = workshop.run("distill", "recipe.toml", "--out", "live")
    assert live.exit_code == 0, live.output
    losses = [
        [json.loads(line)["loss"] for line in (path / "steps.jsonl").read_text().splitlines()]
        for path in (run, workshop.path / "live")
    ]
    # Samples have the entropy of samples in their loss: not the same number, the same size of gradient.
    assert len(losses[0]) == len(losses[1]) == 4


def test_hidden_states_on_disk_give_the_losses_of_the_live_teacher(workshop: Workshop):
    for words in (("label", "recipe.toml", "--set", "labels.tier=hidden", "--out", "kept"),):
        assert workshop.run(*words).exit_code == 0
    stored = workshop.run("distill", "recipe.toml", *STORED, "--set", "teacher.labels=kept", "--out", "stored")
    assert stored.exit_code == 0, stored.output
    assert workshop.run("distill", "recipe.toml", "--out", "live").exit_code == 0
    one, other = (
        [json.loads(line) for line in (workshop.path / name / "steps.jsonl").read_text().splitlines()]
        for name in ("stored", "live")
    )
    for left, right in zip(one, other, strict=True):
        assert abs(left["loss"] - right["loss"]) < 0.01 * right["loss"]
        assert abs(left["gradient_norm"] - right["gradient_norm"]) < 0.02 * right["gradient_norm"]


def test_labels_that_do_not_fit_are_refused(workshop: Workshop):
    assert "holds no soft labels" in workshop.refused("distill", "recipe.toml", *STORED)
    assert workshop.run("label", "recipe.toml", "--out", "kept").exit_code == 0
    use = ("distill", "recipe.toml", *STORED, "--set", "teacher.labels=kept", "--out", "run")
    assert "serve forward KL alone" in workshop.refused(*use, "--set", "loss.divergence.kind=reverse_kl")
    assert "of temperature 1 and the loss asks for 2" in workshop.refused(*use, "--set", "loss.temperature=2.0")
    assert "beyond the 24 tokens" not in workshop.run(*use, "--set", "training.length=12").output
    assert "of another kind" in workshop.refused("label", "recipe.toml", "--out", "kept", "--set", "labels.tau=0.1")
    assert "holds no soft labels" in workshop.refused("inspect", "teacher")
    (workshop.path / "text.jsonl").write_text((workshop.path / "text.jsonl").read_text().replace("odd", "uneven"))
    pruned = 'student={kind="prune", to=0.7, tokens=500}'
    other = workshop.run(*use, "--set", pruned, "--out", "other")
    assert other.exit_code == 2
    assert "have no labels in kept" in other.stderr
    assert "measuring what matters" not in other.output  # what takes minutes comes behind what can be refused


def test_a_dry_run_estimates_and_leaves_nothing(workshop: Workshop):
    result = workshop.run("label", "recipe.toml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "predictions to label: about" in result.output
    assert "MiB" in result.output
    assert not (workshop.path / "runs").exists()


def test_check_looks_at_stored_labels(workshop: Workshop):
    assert "holds no soft labels" in workshop.refused("check", "recipe.toml", *STORED)
    assert workshop.run("label", "recipe.toml").exit_code == 0
    said = workshop.run("check", "recipe.toml", *STORED)
    assert said.exit_code == 0, said.output
    assert "predictions in runs/recipe/soft_labels" in said.output
    reverse = ("--set", 'loss.divergence.kind="reverse_kl"')
    assert "serve forward KL alone" in workshop.refused("check", "recipe.toml", *STORED, *reverse)


def test_labels_go_out_and_come_in_and_are_learned_from(workshop: Workshop):
    topk = ("--set", "labels.tier=topk", "--set", "labels.k=12")
    assert workshop.run("label", "recipe.toml", *topk).exit_code == 0
    out = ("export-labels", "runs/recipe/soft_labels", "--recipe", "recipe.toml", "--out", "table.parquet")
    written = workshop.run(*out)
    assert written.exit_code == 0, written.output
    read = workshop.run("import-labels", "table.parquet", "--teacher", "teacher", "--out", "kept")
    assert read.exit_code == 0, read.output
    assert "data.source = 'table.parquet'" in read.output
    learn = ("--set", "teacher.labels=kept", "--set", "data.source=table.parquet", "--out", "run")
    learned = workshop.run("distill", "recipe.toml", *STORED, *learn)
    assert learned.exit_code == 0, learned.output
    again = workshop.run("import-labels", "table.parquet", "--teacher", "teacher", "--out", "kept")
    assert again.exit_code == 0, again.output
    assert "no such file" in workshop.refused("import-labels", "none.parquet", "--teacher", "teacher", "--out", "other")
    assert "none of them hold" in workshop.refused(
        "import-labels", "text.jsonl", "--teacher", "teacher", "--out", "other"
    )


def test_answers_of_a_server_come_in_with_their_text(workshop: Workshop):
    """As an OpenAI-compatible server writes them: tokens as text, some with their bytes."""
    rows = []
    for number in range(12):
        answer = "abcdefgh"[: 3 + number % 5]
        content = [
            {
                "token": letter,
                "bytes": list(letter.encode()),
                "logprob": -0.2,
                "top_logprobs": [
                    {"token": letter, "logprob": -0.2},
                    {"token": "z", "logprob": -2.5},
                    {"token": "no such token", "logprob": -4.0},
                ],
            }
            for letter in answer
        ]
        rows.append({"prompt": f"question {number}: ", "choices": [{"logprobs": {"content": content}}]})
    (workshop.path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = workshop.run("import-labels", "answers.jsonl", "--teacher", "teacher", "--out", "kept")
    assert read.exit_code == 0, read.output
    first = json.loads((workshop.path / "kept-text.jsonl").read_text().splitlines()[0])
    assert first["labels"][-3:] == first["input_ids"][-3:]
    assert set(first["labels"][:-3]) == {-100}
    learn = ("--set", "teacher.labels=kept", "--set", "data.source=kept-text.jsonl", "--set", "training.length=40")
    learned = workshop.run("distill", "recipe.toml", *STORED, *learn, "--out", "run")
    assert learned.exit_code == 0, learned.output
    looked = workshop.run("inspect", "kept", "--recipe", "recipe.toml", *learn[2:])
    assert looked.exit_code == 0, looked.output
    assert "'z' 0.08" in looked.output


@pytest.mark.parametrize(
    ("counts_all", "said"),
    [(True, "labelling: 100/1,000  10 tokens/s"), (False, "labelling: 100/500  10 tokens/s")],
)
def test_one_of_two_processes_has_half_of_the_work(counts_all: bool, said: str) -> None:
    """Its passes count its own predictions, of a total that is everyone's; what a crew sends is everyone's already."""
    done = Progress(tokens=100, total=1000, bytes=400, seconds=10.0, sums=np.zeros(len(SUMS)))
    console = Console(file=StringIO(), width=200)
    watched(iter([done]), 2, console, counts_all=counts_all)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert said in printed
    assert ("90 s left" if counts_all else "40 s left") in printed
    assert "about 50 s" in printed
