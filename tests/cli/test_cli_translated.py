"""A teacher of another tokenizer from the command line: a run, its report, and what is refused."""

from __future__ import annotations

import json

import pytest
from commands import Workshop
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.recipe import load_recipe, recipe_toml
from potstill.runs import OTHER_TOKENS


@pytest.fixture
def foreign(workshop: Workshop) -> Workshop:
    """A recipe whose student has a BPE of 280 tokens, where the teacher has bytes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["number 1 is even. number 2 is odd. "] * 9, trainer)
    folder = workshop.path / "student"
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>").save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=280, max_position_embeddings=64, eos_token_id=0, **shape)).save_pretrained(
        folder
    )
    recipe = (workshop.path / "recipe.toml").read_text()
    recipe = recipe.replace('model = "teacher"', 'kind = "translated"\nmodel = "teacher"')
    recipe = recipe.replace('kind = "copy_layers"\nlayers = 2', 'kind = "model"\nmodel = "student"')
    (workshop.path / "recipe.toml").write_text(recipe.replace("steps = 4", "steps = 2") + "\n[loss]\nalpha = 0.5\n")
    return workshop


@pytest.mark.parametrize("how", ["uld", "spans", "matched"])
def test_a_run_reports_bits_a_byte_and_nothing_that_has_no_meaning(foreign: Workshop, how: str) -> None:
    if how == "uld":
        checked = foreign.run("check", "recipe.toml")
        assert checked.exit_code == 0, checked.output
    result = foreign.run("distill", "recipe.toml", "--out", "run", "--set", f"teacher.translation.how={how}")
    assert result.exit_code == 0, result.output
    assert "bits a byte" in result.output
    assert "the teacher marks" in result.output
    assert OTHER_TOKENS[:40] in result.output
    models_ = json.loads((foreign.path / "run" / "scores.json").read_text())["models"]
    assert set(models_["teacher"]["scores"]) == {"bits_per_byte"}
    assert set(models_["distilled"]["kept"]) == {"bits_per_byte"}
    assert "agreement" not in models_["distilled"]["scores"]
    page = (foreign.path / "run" / "report.html").read_text()
    assert "cuts text into other tokens" in page
    facts = json.loads((foreign.path / "run" / "manifest.json").read_text())
    assert facts["run"]["translation"]["marked"] > 0.5
    if how == "matched":
        again = foreign.run("report", "run")
        assert again.exit_code == 0, again.output
        both = foreign.run("report", "run", "run")
        assert both.exit_code == 0, both.output


def test_a_plan_measures_each_model_in_its_own_tokens(foreign: Workshop) -> None:
    planned = foreign.run("plan", "recipe.toml", "--json")
    assert planned.exit_code == 0, (planned.output, planned.exception)
    found = json.loads(planned.stdout)
    assert found["workload"]["is_translated"] is True
    assert {"measuring the teacher", "measuring students"} < {one["name"] for one in found["phases"]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["teacher.translation.how=uld", "loss.alpha=1.0"], "set loss.alpha below 1"),
        (["teacher.translation.how=spans", "loss.temperature=2.0"], "`tau`"),
        (["teacher.translation.how=spans", "loss.divergence.kind=reverse_kl"], "leave loss.divergence out"),
        (["loss.hidden.kind=mse"], "leave loss.hidden out"),
        (["teacher.correction.tokens=10"], "leave teacher.correction out"),
        (["teacher.kind=live", "teacher.translation.how=spans"], 'set kind = "translated"'),
        (['student={ kind = "copy_layers", layers = 2 }'], "a tokenizer of its own"),
    ],
)
def test_what_does_not_go_with_it(foreign: Workshop, settings: list[str], said: str) -> None:
    assert said in " ".join(
        foreign.refused("distill", "recipe.toml", *[w for s in settings for w in ("--set", s)]).split()
    )


def test_its_labels_are_not_stored(foreign: Workshop) -> None:
    assert "distil with a translated teacher live" in " ".join(foreign.refused("label", "recipe.toml").split())


def test_the_resolved_recipe_says_how(foreign: Workshop) -> None:
    text = recipe_toml(load_recipe(foreign.path / "recipe.toml"))
    assert 'how = "matched"' in text
    assert "translation" not in recipe_toml(load_recipe(foreign.path / "recipe.toml", sets=["teacher.kind=live"]))
