"""`potstill export`: a folder that runs, a page, a manifest, and an exit code that says whether it is good."""

import json

import pytest
from commands import Workshop
from small_tokenizers import TEXTS, byte_level
from tiny_models import GROUPED, tiny_model

from potstill.models import save_model

SIZED = GROUPED | {"vocab_size": 320, "max_position_embeddings": 512}


@pytest.fixture
def small(workshop: Workshop) -> Workshop:
    """A run's folder with a student, and text."""
    save_model(tiny_model("llama", settings=SIZED, spread=10.0), byte_level(), workshop.path / "run" / "student")
    (workshop.path / "some.txt").write_text("\n".join(TEXTS))
    return workshop


def test_a_gguf_runs_and_comes_with_all_that_runs_it(small: Workshop):
    said = small.run("export", "run", "--to", "gguf", "--type", "f16", "-d", "some.txt", "--threads", "1")
    assert said.exit_code == 0, said.output
    assert "good: near enough" in said.output
    assert "llama-server -m run/export-f16/run-f16.gguf" in said.output
    out = small.path / "run" / "export-f16"
    assert {one.name for one in out.iterdir()} == {"run-f16.gguf", "Modelfile", "README.md", "export.json"}
    assert (out / "Modelfile").read_text().startswith("FROM ./run-f16.gguf\n")
    assert "llama-server -m run-f16.gguf" in (out / "README.md").read_text()
    facts = json.loads((out / "export.json").read_text())
    assert facts["good"]
    assert 0 <= facts["scores"]["KL to the student, nats"] < 1e-3
    assert facts["speeds"]["export"]["decode_tokens_per_second"] > 0
    assert facts["bytes"]["blocks"] > 0


def test_what_misses_its_bar_stays_and_ends_with_1(small: Workshop):
    said = small.run("export", "run/student", "--to", "int4", "-d", "some.txt", "--most-kl", "0", "-o", "four")
    assert said.exit_code == 1, said.output
    assert "not good: it differs from the student by" in said.output
    assert "vllm serve four" in said.output
    facts = json.loads((small.path / "four" / "export.json").read_text())
    assert not facts["good"]
    assert "misses its bar" in (small.path / "four" / "README.md").read_text()


def test_the_runs_bar_is_read(small: Workshop):
    verdict = {"bar": "at least 99%", "metric": "accuracy", "least": 0.99, "absolute": False, "value": 0.98}
    (small.path / "run" / "scores.json").write_text(json.dumps({"bars": [{}], "verdicts": [verdict]}))
    said = small.run("export", "run", "--to", "huggingface", "-d", "some.txt", "-o", "hf")
    assert said.exit_code == 1, said.output
    assert "it reaches 0.98 where the run's bar is at least 99%" in said.output


def test_mistakes_are_refused(small: Workshop):
    assert "--to is one of int4, int8, gguf, huggingface" in small.refused(
        "export", "run", "--to", "onnx", "-d", "some.txt"
    )
    assert "say on what text" in small.refused("export", "run", "--to", "int8")
    assert "there is no GGUF type 'q4_k'" in small.refused(
        "export", "run", "--to", "gguf", "--type", "q4_k", "-d", "some.txt"
    )
    assert "--group is of int4 and int8" in small.refused(
        "export", "run", "--to", "gguf", "--group", "32", "-d", "some.txt"
    )
    refused = small.refused("export", "run", "--to", "gguf", "-d", "some.txt", "-o", "run/student")
    assert "holds something that is no export (config.json)" in refused
