"""A model cut from the command line reloads, is as large as was asked, and can be distilled."""

from __future__ import annotations

import json

from commands import Workshop
from transformers import AutoModelForCausalLM

from potstill.models import size_of

CUT = ("prune", "teacher", "--data", "text.jsonl", "--length", "16")


def test_prune_to_a_share_and_distil_it(workshop: Workshop):
    result = workshop.run(*CUT, "--to", "70%", "--out", "small")
    assert result.exit_code == 0, result.output
    for said in ("not embeddings", "cache, bytes a token", "perplexity"):
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
