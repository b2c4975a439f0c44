"""Key-value heads become fewer by their mean: where the merged ones were equal, the teacher says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_students_prune import CORPUS, SETTINGS, TOKENS
from tiny_models import LAYERS, tiny_model
from transformers import AutoModelForCausalLM

from potstill.errors import ModelError
from potstill.students import Shape, measure_importance, prune, sizes_of
from potstill.students.merging import key_value_heads, merge_key_value_heads

# Their configurations can't say it.
NO_SETTING = {"gpt2", "opt", "gpt_neox"}


@pytest.mark.parametrize("family", SETTINGS)
def test_equal_heads_become_one(family: str, tmp_path: Path):
    teacher = tiny_model(family, settings=SETTINGS[family])
    if family in NO_SETTING:
        with pytest.raises(ModelError, match="no setting"):
            merge_key_value_heads(teacher, 1)
        return
    heads = key_value_heads(teacher)
    assert heads > 1
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    one = merge_key_value_heads(teacher, 1)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert key_value_heads(one) == 1
    assert sizes_of(one).cache_bytes == sizes_of(teacher).cache_bytes // heads
    # A teacher all of whose heads are that one: made from the student by hand, weight by weight.
    with torch.no_grad():
        for name, weight in one.state_dict().items():
            into = teacher.state_dict()[name]
            if into.shape == weight.shape:
                continue
            dim = next(d for d in range(weight.ndim) if weight.shape[d] != into.shape[d])
            width = (into.shape[dim] - weight.shape[dim]) // (heads - 1)
            if weight.shape[dim] == width:
                into.copy_(torch.cat([weight] * heads, dim))
            else:  # queries, keys and values in one
                queries = weight.shape[dim] - width
                q, k, v = weight.split([queries, width // 2, width // 2], dim)
                into.copy_(torch.cat([q, *[k] * heads, *[v] * heads], dim))
        said = one.eval()(TOKENS).logits
        assert (teacher.eval()(TOKENS).logits - said).abs().max() < 1e-5 * said.abs().max()
    one.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(TOKENS).logits, said)
    assert again.generate(TOKENS[:1], max_new_tokens=4, do_sample=False).shape[1] > TOKENS.shape[1]


def test_merged_with_everything_else():
    teacher = tiny_model("llama", settings=SETTINGS["llama"])
    importance = measure_importance(teacher, CORPUS, length=16)
    shape = Shape((0, LAYERS - 1), ffn=29, heads=2, hidden=24, kv_heads=1)
    student, lineage = prune(teacher, shape, importance)
    assert (student.config.num_attention_heads, student.config.num_key_value_heads) == (2, 1)
    assert lineage.source == "LlamaForCausalLM"
    with torch.no_grad():
        assert student(TOKENS).logits.isfinite().all()


def test_a_number_that_does_not_divide():
    teacher = tiny_model("llama", settings=SETTINGS["llama"])
    with pytest.raises(ModelError, match="can't become 3: choose 1, 2"):
        merge_key_value_heads(teacher, 3)
    assert merge_key_value_heads(teacher, 2) is teacher
