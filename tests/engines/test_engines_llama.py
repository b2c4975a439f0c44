"""llama.cpp runs in this process: started, asked, stopped; its own numbers; and what it says of what it can't run."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from test_models_gguf import write_gguf
from tiny_models import tiny_model

from potstill.engines import LlamaServer
from potstill.engines.reading import EngineTeacher, log_probabilities, speed_of, tokens_of
from potstill.errors import MissingExtraError, ModelError, ServerError
from potstill.models import head_of
from potstill.teachers import LiveTeacher
from potstill.types import Batch

IDS = [5, 9, 33, 60, 7, 12]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model("llama"), path)
    return path


@pytest.fixture(scope="module")
def server(file):
    with LlamaServer(file, context=64, threads=1, embeddings=True) as running:
        yield running


def test_it_answers_on_a_port_of_this_machine(server):
    assert server.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{server.url}/health") as reply:
        assert json.loads(reply.read())["status"] == "ok"


def test_only_who_has_its_key_is_answered(server, file):
    request = urllib.request.Request(f"{server.url}/completion", b'{"prompt": [5], "n_predict": 1}')
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request)
    request.add_header("Authorization", f"Bearer {server.key}")
    with urllib.request.urlopen(request) as reply:
        assert reply.status == 200
    assert LlamaServer(file).key != server.key


def test_its_probabilities_are_the_models(server):
    ours = tiny_model("llama")(torch.tensor([IDS])).logits[0, -1].log_softmax(-1).detach().numpy()
    np.testing.assert_allclose(log_probabilities(server, IDS, 61), ours, atol=2e-3)


def test_it_marks_text_as_the_model_does(server):
    model = tiny_model("llama")
    rows = torch.tensor([[*IDS, 7, 7], [5, 9, 9, 40, 0, 0, 0, 0]])
    # Two contexts in the first row, padding in the second.
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3]])
    documents = torch.tensor([[0] * 4 + [1] * 4, [2] * 4 + [-1] * 4])
    batch = Batch(rows, rows, (documents >= 0).float() * (rows != 33), documents, positions, positions)
    theirs = EngineTeacher(server, head_of(model)).label(batch)
    assert len(theirs.rows) == 11
    ours = LiveTeacher(model, size=61).label(batch)
    torch.testing.assert_close(theirs.rows.detach(), ours.rows, atol=2e-3, rtol=0)


def test_its_tokens_and_speed(server):
    assert tokens_of(server, "bad cab") == tokens_of(server, "bad") + tokens_of(server, " cab")
    assert all(value > 0 for value in speed_of(server, IDS, new_tokens=4))


def test_a_draft_writes_ahead(file):
    with LlamaServer(file, context=64, threads=1, draft=file) as server:
        said = server.ask("/completion", {"prompt": IDS, "n_predict": 16, "temperature": 0.0, "ignore_eos": True})
    assert said["timings"]["draft_n_accepted"] == said["timings"]["draft_n"] > 0


def test_it_runs_no_more_afterwards(file):
    with LlamaServer(file, context=64, threads=1) as server:
        url = server.url
    with pytest.raises(ServerError, match="isn't running"):
        _ = server.url
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)


def test_what_it_cannot_run_is_refused(file, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="there is no file"):
        LlamaServer(tmp_path / "none.gguf").start()
    (tmp_path / "half.gguf").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"can't run .*half.gguf"):
        LlamaServer(tmp_path / "half.gguf").start()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"'\.\[llama\]'"):
        LlamaServer(file).start()


def test_a_request_that_is_refused_says_why(server):
    with pytest.raises(ServerError, match="/embedding"):
        server.ask("/embedding", {"content": [5] * 600})


def test_no_proxy_stands_between(file, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)  # made once, of the environment
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with LlamaServer(file, context=64, threads=1) as server:
        assert tokens_of(server, "bad")
