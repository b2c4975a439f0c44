"""A model cut from the command line reloads, is as large as was asked, and can be distilled."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import Workshop
from transformers import AutoModelForCausalLM

from potstill.cli.pruning import enough_documents, target_of
from potstill.data import Document, Part, split_of
from potstill.errors import RecipeError
from potstill.models import size_of

CUT = ("prune", "teacher", "--data", "text.jsonl", "--length", "16")


def test_prune_to_a_share_and_distil_it(workshop: Workshop):
    result = workshop.run(*CUT, "--to", "70%", "--out", "small")
    assert result.exit_code == 0, result.output
    for said in ("not embeddings", "cache, bytes a token", "perplexity", 'student.model = "small"'):
        assert said in result.output
    small = AutoModelForCausalLM.from_pretrained(workshop.path / "small")
    teacher = AutoModelForCausalLM.from_pretrained(workshop.path / "teacher")
    assert 0.4 < size_of(small).non_embedding / size_of(teacher).non_embedding <= 0.7
    lineage = json.loads((workshop.path / "small" / "lineage.json").read_text())
    assert lineage["layers"] == list(range(teacher.config.num_hidden_layers))
    learn = ("--set", 'student={kind="model", model="small"}', "--out", "run")
    learned = workshop.run("distill", "recipe.toml", *learn)
    assert learned.exit_code == 0, learned.output


def test_layers_by_number_and_scores_used_again(workshop: Workshop):
    assert workshop.run(*CUT, "--layers", "2", "--out", "two").exit_code == 0
    again = ("--importance", "two/importance.safetensors", "--ffn", "7", "--out", "three")
    result = workshop.run(*CUT, "--layers", "0,2,3", *again)
    assert result.exit_code == 0, result.output
    assert "layers left out: 1" in result.output
    assert "measuring what matters" not in result.output
    small = AutoModelForCausalLM.from_pretrained(workshop.path / "three")
    assert (small.config.num_hidden_layers, small.config.intermediate_size) == (3, 7)
    run = workshop.run(*CUT, "--layers", "2", "--choose", "perplexity", "--out", "run-of-layers")
    assert run.exit_code == 0, run.output


def test_what_can_not_be_cut_is_refused(workshop: Workshop):
    for words, message in (
        ((), "nothing is to be cut"),
        (("--to", "lots"), "--to is a share"),
        (("--to", "120%"), "--to is a share"),
        (("--layers", "some"), "--layers is a number"),
        (("--layers", "9"), "9 layers can't be copied"),
        (("--ffn", "100000"), "can't be had"),
        (("--to", "0.1%"), "narrower layers alone"),
        (("--ffn", "3", "--importance", "none"), "no importance scores"),
    ):
        assert message in workshop.refused(*CUT, *words, "--out", "out")
    assert not (workshop.path / "out").exists()


def test_a_corrected_teacher_marks_in_the_teachers_place(workshop: Workshop):
    sets = ("--set", "teacher.correction={tokens=400, learning_rate=1e-3}")
    result = workshop.run("distill", "recipe.toml", *sets, "--out", "run")
    assert result.exit_code == 0, result.output
    assert "corrected teacher" in result.output
    scores = json.loads((workshop.path / "run" / "scores.json").read_text())["models"]
    assert list(scores) == ["teacher", "corrected_teacher", "untouched", "hard_labels", "distilled"]
    perplexity = {name: model["scores"]["perplexity"]["value"] for name, model in scores.items()}
    assert perplexity["corrected_teacher"] < perplexity["teacher"]
    plain = workshop.run("distill", "recipe.toml", "--out", "plain")
    assert plain.exit_code == 0, plain.output
    one, other = (
        [json.loads(line)["parts"]["soft"] for line in (workshop.path / name / "steps.jsonl").read_text().splitlines()]
        for name in ("run", "plain")
    )
    assert one[0] != other[0]
    again = workshop.run("distill", "recipe.toml", *sets, "--out", "run")
    assert again.exit_code == 0, again.output
    assert "stored labels are the uncorrected teacher's" in workshop.refused(
        "distill", "recipe.toml", *sets, "--set", "teacher.kind=stored", "--out", "other"
    )


def test_a_pruned_student_in_a_recipe_and_its_mistakes(workshop: Workshop):
    student = 'student={kind="prune", to=0.7, layers=3, choose="one_by_one", tokens=500}'
    checked = workshop.run("check", "recipe.toml", "--set", student)
    assert checked.exit_code == 0, checked.output
    result = workshop.run("distill", "recipe.toml", "--set", student, "--out", "run")
    assert result.exit_code == 0, result.output
    assert "measuring what matters in the teacher, on up to 500 tokens" in result.output
    made = AutoModelForCausalLM.from_pretrained(workshop.path / "run" / "student")
    teacher = AutoModelForCausalLM.from_pretrained(workshop.path / "teacher")
    assert made.config.num_hidden_layers == 3
    assert size_of(made).non_embedding <= 0.7 * size_of(teacher).non_embedding
    lineage = json.loads((workshop.path / "run" / "lineage.json").read_text())
    assert len(lineage["layers"]) == 3
    again = workshop.run("distill", "recipe.toml", "--set", student, "--out", "run")
    assert "measuring what matters" not in again.output
    scores = 'student={kind="prune", ffn=8, importance="run/importance.safetensors"}'
    assert workshop.run("distill", "recipe.toml", "--set", scores, "--out", "two").exit_code == 0
    for table, message in (
        ('{kind="prune"}', "nothing is to be cut"),
        ('{kind="prune", to=1.5}', "below 1"),
        ('{kind="prune", layers=[0, 2], choose="run"}', "says which of a number of layers stay"),
        ('{kind="prune", kv_heads=3}', "can't become 3"),
        ('{kind="prune", ffn=8, importance="nowhere"}', "no importance scores"),
    ):
        assert message in workshop.refused("distill", "recipe.toml", "--set", f"student={table}", "--out", "wrong"), (
            table
        )


def test_how_small_or_how_fast():
    for text, kind, amount in (
        ("60%", "share", 0.6),
        ("0.6", "share", 0.6),
        ("80M", "parameters", 80e6),
        ("1.2b", "parameters", 1.2e9),
        ("150MB", "bytes", 150e6),
        ("1GiB", "bytes", 2**30),
        ("1.5x", "speed", 1.5),
    ):
        found = target_of(text)
        assert (found.kind, found.amount) == (kind, pytest.approx(amount)), text
    for text in ("lots", "120%", "0%", "60", "0.5x", "-3M", ""):
        with pytest.raises(RecipeError, match="--to is a share"):
            target_of(text)


def test_prune_to_parameters_bytes_and_speed(workshop: Workshop):
    teacher = AutoModelForCausalLM.from_pretrained(workshop.path / "teacher")
    total = size_of(teacher).total
    for to, most in ((f"{round(0.8 * total / 1e3)}k", 0.8 * total), (f"{round(4 * 0.7 * total / 1e3)}kB", 0.7 * total)):
        result = workshop.run(*CUT, "--to", to, "--out", f"to-{to}")
        assert result.exit_code == 0, result.output
        made = AutoModelForCausalLM.from_pretrained(workshop.path / f"to-{to}")
        assert 0.5 * most < size_of(made).total <= most + 1e3
        assert (workshop.path / f"to-{to}" / "importance.png").stat().st_size > 10_000
    assert "as fast as that" in workshop.refused(*CUT, "--to", "99x", "--out", "fast")


def test_a_student_that_learns_through_adapters(workshop: Workshop):
    sets = ("--set", "training.lora={rank=2, alpha=8.0}", "--set", "training.learning_rate=0.02")
    result = workshop.run("distill", "recipe.toml", *sets, "--out", "run")
    assert result.exit_code == 0, result.output
    made = AutoModelForCausalLM.from_pretrained(workshop.path / "run" / "student")
    teacher = AutoModelForCausalLM.from_pretrained(workshop.path / "teacher")
    names = dict(teacher.named_parameters())
    assert not [name for name, _ in made.named_parameters() if "lora" in name or name not in names]
    assert (made.get_input_embeddings().weight == teacher.get_input_embeddings().weight).all()
    assert not (made.model.layers[0].mlp.up_proj.weight == names["model.layers.0.mlp.up_proj.weight"]).all()
    shutil.rmtree(workshop.path / "run" / "student")  # as if it had been killed before the student was there
    (workshop.path / "run" / "measurements" / "distilled.npz").unlink()
    again = workshop.run("distill", "recipe.toml", *sets, "--out", "run")
    assert again.exit_code == 0, again.output


def test_a_large_corpus_is_not_read_whole():
    read = []

    def documents():
        for number in range(10_000):
            read.append(number)
            yield Document(str(number), (Part("x" * 3_000, True),))

    found = list(enough_documents(documents(), {"train": 10_000, "held_out": 2_000}, length=512))
    assert len(read) == len(found) < 200
    corpus = {split: sum(split_of(one.key) == split for one in found) for split in ("train", "held_out")}
    assert corpus["train"] * 3_000 >= 60_000
    assert corpus["held_out"] * 3_000 >= 12_000
