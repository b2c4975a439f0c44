"""A model on this machine: its own greedy text, its own likelihoods, draws that belong to the prompt and follow the distribution."""

import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from potstill.errors import DataError, ModelError
from potstill.models import cut, draw
from potstill.soft_labels.noise import uniforms
from potstill.writing import LocalWriter, Prompt, Sampling
from potstill.writing.drawing import key_of

TEXTS = ["def f(self,", "import os\nimport", "class A:\n    def __init__(self, name", "x", "for i in range("]


def prompts(texts=TEXTS) -> list[Prompt]:
    return [Prompt(f"{n}", f"{n}", text, text, None, f"row {n}") for n, text in enumerate(texts)]


def written(pocket, sampling: Sampling, rows: int = 16, texts=TEXTS):
    writer = LocalWriter(*pocket, sampling, rows=rows)
    asked = prompts(texts)
    return {one.id: one for one in writer.write(asked, {one.id for one in asked})}


def test_greedy_text_is_the_models_own(pocket):
    model, tokenizer = pocket
    found = written(pocket, Sampling(temperature=0.0, max_new_tokens=12))
    for number, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        mask = torch.ones_like(ids)
        alone = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)[0]
        [sample] = found[str(number)].samples
        assert text + sample.text == tokenizer.decode(alone, skip_special_tokens=True)
        assert sample.tokens == len(alone) - ids.shape[1]
        assert sample.is_cut == (alone[-1].item() != tokenizer.eos_token_id)
        with torch.no_grad():
            log_p = model(alone[None]).logits[0].log_softmax(-1)
        own = log_p[ids.shape[1] - 1 : -1].gather(-1, alone[ids.shape[1] :, None]).mean().item()
        assert sample.mean_logprob == pytest.approx(own, abs=1e-4)


def test_draws_belong_to_the_prompt(pocket):
    """Not to the batch, its size or its order, nor to what was written before a kill."""
    sampling = Sampling(temperature=1.0, top_p=0.95, best_of=2, max_new_tokens=10, seed=3)
    together = written(pocket, sampling)
    alone = written(pocket, sampling, rows=1)
    assert {k: [s.text for s in one.samples] for k, one in together.items()} == {
        k: [s.text for s in one.samples] for k, one in alone.items()
    }
    writer = LocalWriter(*pocket, sampling, rows=3)
    [rest] = writer.write(prompts()[2:3], {"2"})
    assert [s.text for s in rest.samples] == [s.text for s in together["2"].samples]
    whole = {one.id: one for one in writer.write(prompts(), set(together))}
    for missing in ({"2"}, {"0", "3"}, set(together) - {"1"}):
        assert {one.id: one for one in writer.write(prompts(), missing)} == {one: whole[one] for one in missing}
    texts = [sample.text for one in together.values() for sample in one.samples]
    assert len(set(texts)) > 7, "samples of a prompt differ, and so do prompts"
    other = written(pocket, Sampling(temperature=1.0, top_p=0.95, best_of=2, max_new_tokens=10, seed=4))
    assert sum(s.text in texts for one in other.values() for s in one.samples) < 4
    assert together["2"].prompt_tokens == 2 * len(pocket[1](TEXTS[2])["input_ids"])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=7),
        Sampling(top_p=0.6),
        Sampling(min_p=0.2),
        Sampling(temperature=1.7, top_k=30, top_p=0.8, min_p=0.05),
    ],
)
def test_cuts_are_those_of_transformers(sampling):
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(1)) * 2
    theirs = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        theirs.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        theirs.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        theirs.append(MinPLogitsWarper(sampling.min_p))
    wanted = theirs(torch.zeros(9, 1, dtype=torch.long), logits).softmax(-1)
    p = (logits / sampling.temperature).softmax(-1)
    ours = cut(p, top_k=sampling.top_k or None, top_p=sampling.top_p, min_p=sampling.min_p)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), wanted)


def test_draws_follow_the_weights():
    weights = torch.tensor([0.0, 0.5, 0.0, 0.125, 0.375, 0.0]) * 3
    number = 40_000
    keys = np.array([key_of("a", n) for n in range(number)], dtype=np.uint64)
    drawn = torch.from_numpy(uniforms(0, keys, np.zeros(number, dtype=np.int64), 1)[:, 0])
    found = torch.bincount(draw(weights.expand(number, -1), drawn), minlength=6) / number
    # 5 standard errors of a share are 5 · √(0.25 / 40,000) at most.
    torch.testing.assert_close(found, weights / 3, atol=0.0125, rtol=0)
    assert found[weights == 0].sum() == 0
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights.expand(2, -1), edges).tolist() == [1, 4]


def test_writing_ends_at_a_stop(pocket):
    free = written(pocket, Sampling(temperature=0.0, max_new_tokens=24), texts=[TEXTS[1]])["0"].samples[0]
    stop = free.text[6:9]
    at = free.text.find(stop)
    found = written(pocket, Sampling(temperature=0.0, max_new_tokens=24, stop=(stop,)), texts=[TEXTS[1], TEXTS[0]])
    assert found["0"].samples[0].text == free.text[:at]
    assert not found["0"].samples[0].is_cut
    assert 0 < found["0"].samples[0].tokens < free.tokens


def test_a_prompt_without_room_is_not_answered(pocket):
    found = written(pocket, Sampling(max_new_tokens=12), texts=["x = 1\n" * 200, "y"])
    assert found["0"].samples == ()
    assert len(found["1"].samples) == 1
    with pytest.raises(ModelError, match="longer than the context"):
        written(pocket, Sampling(max_new_tokens=512))


@pytest.mark.parametrize(
    ("rows", "best_of", "sizes"), [(3, 2, [1, 3, 3]), (2, 2, [1, 1, 1, 1, 1, 1, 1]), (4, 1, [1, 4, 2])]
)
def test_parts_are_written_as_the_whole(rows, best_of, sizes, pocket):
    """Each by itself, to the last bit; what has no room is a part too."""
    asked = prompts(["x = 1\n" * 200, *TEXTS, "try:\n    import"])
    writer = LocalWriter(*pocket, Sampling(best_of=best_of, max_new_tokens=5), rows=rows)
    parts, everything = list(writer.parts(asked)), {one.id for one in asked}
    assert [len(part) for part in parts] == sizes
    assert [one for part in parts for one in writer.write(part, everything)] == list(writer.write(asked, everything))


def test_conversations_go_through_the_template(pocket):
    turns = ({"role": "user", "content": "hello"},)
    prompt = Prompt("0", "0", turns, "hello", None, "row 0")
    tokenizer = byte_tokenizer(chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}>")
    ids = LocalWriter(pocket[0], tokenizer, Sampling()).tokens_of(prompt)
    assert tokenizer.decode(ids) == "[hello]>"
    with pytest.raises(DataError, match="no chat template"):
        LocalWriter(*pocket, Sampling()).tokens_of(prompt)
