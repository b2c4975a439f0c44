"""Likeliest tokens that a server lists become soft labels that learn like the teacher's own."""

import json

import torch
from faulty_server import Behaviour, serving
from typer.testing import CliRunner

from potstill.cli.app import app
from potstill.data import ordered_batches, read_documents, tokenize
from potstill.losses import SoftLabelLoss
from potstill.models import load_tokenizer
from potstill.runs import fingerprint_of_tokenizer
from potstill.soft_labels import Store
from potstill.teachers import LiveTeacher
from potstill.teachers.stored import StoredTeacher
from potstill.types import SparseTargets

RECIPE = """
[writer]
kind = "server"
url = "{url}"
model = "pocket"
endpoint = "completions"
top_logprobs = 5
[prompts]
source = "prompts.jsonl"
[sampling]
temperature = 0
max_new_tokens = 12
[output]
cut = true
"""
TEXTS = ["def f(self,", "import os\nimport", "class A:\n    def __init__(self, name", "for i in range(", "return self."]


def answering(model, tokenizer):
    """Greedy, listing tokens as llama.cpp does: with their numbers."""

    def one(token: int, log_p: torch.Tensor) -> dict:
        return {"id": token, "token": tokenizer.decode([token]), "logprob": log_p[token].item()}

    def answer(body: dict, prompt: str) -> dict:
        ids, listed = list(tokenizer(prompt)["input_ids"]), []
        with torch.no_grad():
            for _ in range(body["max_tokens"]):
                log_p = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                best = log_p.topk(body["logprobs"]).indices.tolist()
                listed.append({**one(best[0], log_p), "top_logprobs": [one(token, log_p) for token in best]})
                ids.append(best[0])
        text = tokenizer.decode(ids, skip_special_tokens=True)[len(prompt) :]
        return {"text": text, "finish_reason": "length", "logprobs": {"content": listed}}

    return answer


def test_a_servers_lists_become_a_store(pocket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = pocket
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    run = CliRunner()
    with serving(Behaviour(answer=answering(model, tokenizer))) as url:
        (tmp_path / "w.toml").write_text(RECIPE.format(url=url))
        assert (written := run.invoke(app, ["write", "w.toml", "-o", "w"])).exit_code == 0, written.output
    rows = [json.loads(line) for line in (tmp_path / "w" / "written.jsonl").read_text().splitlines()]
    assert [len(row["top_logprobs"]) for row in rows] == [12] * 5
    assert all(len(top) == 5 for row in rows for top in row["top_logprobs"])
    done = run.invoke(app, ["import-labels", "w/answers.jsonl", "-t", "pocket", "-o", "kept"])
    assert done.exit_code == 0, done.output
    store = Store(tmp_path / "kept")
    assert (store.num_documents, store.num_tokens) == (5, 60)
    corpus = tokenize(read_documents(tmp_path / "kept-text.jsonl"), load_tokenizer("pocket"))
    stored = StoredTeacher(store, corpus, tokenizer=fingerprint_of_tokenizer(tokenizer), measure=SoftLabelLoss())
    batch = next(ordered_batches(corpus, length=64, rows=5))
    live = LiveTeacher(model, size=model.config.vocab_size)
    own, found = live.label(batch), stored.label(batch)
    assert isinstance(found, SparseTargets)
    log_p = own.head.logits(own.rows).log_softmax(-1).float()
    best = log_p.topk(5)
    dense = torch.zeros_like(log_p).scatter_(-1, found.ids.clamp(min=0).long(), found.probs.float())
    torch.testing.assert_close(dense.gather(-1, best.indices), best.values.exp(), atol=2e-3, rtol=0.02)
    assert len(log_p) == 60
    assert [row["prompt"] + row["completion"] for row in rows] == [
        tokenizer.decode(corpus.document(number)[0].tolist(), skip_special_tokens=True) for number in range(5)
    ]
