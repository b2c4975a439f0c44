"""[training.on_policy]: what it refuses, and what it becomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from potstill.data import Document, PackedBatches, Part, tokenize
from potstill.errors import RecipeError
from potstill.models import Sampling, ends_of
from potstill.recipe import decode
from potstill.recipe.on_policy import OnPolicyTable, build_on_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, tiny_model

RECIPE = {
    "teacher": {"model": "big"},
    "student": {"kind": "model", "model": "small"},
    "data": {"source": "notes.txt"},
    "training": {"steps": 10, "length": 128, "on_policy": {}},
}


def changed(**settings: object) -> dict:
    """The recipe with settings given as table__setting."""
    tables = json.loads(json.dumps(RECIPE))
    for name, value in settings.items():
        *outer, last = name.split("__")
        table = tables
        for key in outer:
            table = table.setdefault(key, {})
        table[last] = value
    return tables


def test_an_empty_table_is_all_on_policy() -> None:
    table = decode(RECIPE).training.on_policy
    assert table == OnPolicyTable()
    assert table is not None
    assert table.share == 1.0
    assert decode(changed(training={"steps": 1})).training.on_policy is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher__kind": "stored"}, "stored labels are of the text"),
        ({"loss__alpha": 0.5}, "no label to learn .*loss.alpha = 0.5"),
        ({"student": {"kind": "search", "max_parameters": 9}}, "a search trains its candidates on the text alone"),
        ({"training__on_policy__new_tokens": 128}, "no room for a prompt, found 128 of length = 128"),
        ({"training__on_policy__temperature": 0.0, "training__on_policy__teacher_share": 0.2}, "draws nothing"),
        ({"training": {"epochs": 1, "on_policy": {}}}, "say `tokens` or `steps`"),
        (
            {"teacher__mixture": {"others": [{"model": "b"}], "one_at_a_time": True}},
            "can't mark what the student writes",
        ),
        ({"teacher__mixture": {"others": [{"model": "b", "labels": "c"}]}}, "can't mark what the student writes"),
        (
            {"teacher__mixture": {"others": [{"model": "b"}]}, "training__on_policy__teacher_share": 0.2},
            "several teachers can't write along",
        ),
        ({"teacher__average": {}}, "nothing to"),
        ({"training__on_policy__share": 1.5}, "training.on_policy.share: needs a number at most 1"),
        ({"training__on_policy__lambda": 0.5}, "training.on_policy.lambda: no such setting"),
    ],
)
def test_what_it_cant_mean_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        decode(changed(**settings))


def test_it_becomes_a_plan_over_the_text_of_the_run() -> None:
    tokenizer = byte_tokenizer()
    parts = (Part("what is it?", False), Part(" it is.", True))
    documents = [Document(f"{n}", (Part("a" * 30, True),)) for n in range(4)] + [Document("s", parts, is_sample=True)]
    batches = PackedBatches(tokenize(documents, tokenizer), 24, 4, seed=7)
    student = tiny_model("llama")
    table = OnPolicyTable(share=0.5, new_tokens=10, prompt_tokens=5, temperature=0.7, top_p=0.9, top_k=12)
    plan = build_on_policy(table, batches, student, tokenizer, size=257)
    assert plan is not None
    assert plan.prompts.sizes.tolist() == [5, 5, 5, 5, 11]
    assert (plan.rows, plan.new_tokens, plan.refresh_every, plan.seed) == (4, 10, 4, 7)
    assert plan.sampling == Sampling(0.7, 0.9, 12)
    assert 0 < max(plan.ends) < 257
    assert plan.tokens_per_step == pytest.approx(0.5 * 4 * (6.2 + 9) + 0.5 * 4 * 24)
    assert build_on_policy(None, batches, student, tokenizer, size=257) is None


def test_all_ends_of_a_chat_model_end_its_text() -> None:
    tokenizer, model = byte_tokenizer(), tiny_model("llama")
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [2, 9, 900]
    assert ends_of(model, tokenizer) == (2, 9, int(str(tokenizer.eos_token_id)), 900)
    model.generation_config.eos_token_id = None
    assert ends_of(model, tokenizer) == (tokenizer.eos_token_id,)


def test_a_student_that_does_not_write_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs a student that writes, and LlamaForCausalLM doesn't"):
        build_on_policy(OnPolicyTable(), "no packed text", tiny_model("llama"), byte_tokenizer(), size=9)  # type: ignore[arg-type]
