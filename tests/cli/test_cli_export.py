"""`potstill export`: a folder that runs, a page, a manifest, and an exit code that says whether it is good."""

import json

import click
import pytest
import torch
from commands import Workshop
from small_tokenizers import TEXTS, byte_level
from tiny_models import FAMILIES, GROUPED, tiny_model

from potstill.errors import ModelError
from potstill.export import rounded, save_packed
from potstill.models import load_model, save_model

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
    page = (out / "README.md").read_text()
    assert "llama-server -m run-f16.gguf" in page
    assert "\nollama create run-f16 -f Modelfile && ollama run run-f16\n" in page
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


def test_it_says_which_matrices_stay_of_16_bits_and_ollama_gets_a_name_it_takes(small: Workshop):
    narrow = tiny_model(
        "gpt2",
        settings=FAMILIES["gpt2"] | {"vocab_size": 320, "n_embd": 40, "n_head": 4, "n_positions": 512},
        spread=10.0,
    )
    save_model(narrow, byte_level(), small.path / "My run (2)" / "student")
    said = small.run("export", "My run (2)", "--to", "gguf", "-d", "some.txt", "--threads", "1")
    assert said.exit_code in (0, 1), said.output
    one_line = " ".join(said.output.split())
    assert "not q8_0 blocks of 32 don't divide the rows of" in one_line
    assert "ffn_up (40 inputs): F16" in one_line
    assert "cut to sizes that 32 divides" in one_line
    assert "ollama create my-run-2-q8_0 -f Modelfile && ollama run my-run-2-q8_0" in one_line


def test_the_runs_bar_is_read(small: Workshop):
    verdict = {"bar": "at least 99%", "metric": "accuracy", "least": 0.99, "absolute": False, "value": 0.98}
    (small.path / "run" / "scores.json").write_text(json.dumps({"bars": [{}], "verdicts": [verdict]}))
    said = small.run("export", "run", "--to", "huggingface", "-d", "some.txt", "-o", "hf")
    assert said.exit_code == 1, said.output
    said = " ".join(said.output.split())
    assert "the student itself misses its run's bar, at least 99%: it reaches 0.98, and this export 0.98" in said


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
    assert "run/student holds what is to be exported" in refused


def test_a_student_that_learned_through_four_bits_is_exported_on_their_grid(small: Workshop):
    """Small groups beside those that the layers would allow: 8 beside 16."""
    (small.path / "run" / "four_bits.json").write_text(json.dumps({"group": 8}))
    student = load_model(small.path / "run" / "student")
    save_packed(student, byte_level(), small.path / "run" / "student-int4", 8)
    for source in ("run", "run/student"):
        said = small.run("export", source, "--to", "int4", "-d", "some.txt", "-o", f"{source}/four")
        assert said.exit_code == 0, said.output
        ours, theirs = (small.path / one / "model.safetensors" for one in (f"{source}/four", "run/student-int4"))
        assert ours.read_bytes() == theirs.read_bytes()
    small.run("export", "run", "--to", "huggingface", "-d", "some.txt", "-o", "hf")
    name = "model.layers.0.mlp.up_proj.weight"
    on_grid = rounded(student, 8).state_dict()[name]
    assert torch.equal(load_model(small.path / "hf").state_dict()[name], on_grid)
    said = small.refused("export", "run", "--to", "int4", "--group", "16", "-d", "some.txt", "-o", "other")
    assert "learned through groups of 8, found --group 16" in said


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("scores.json", "[]"),
        ("scores.json", '{"bars": ["a bar"]}'),
        ("four_bits.json", '{"group": 8'),
        ("four_bits.json", "{}"),
        ("four_bits.json", '{"group": null}'),
    ],
)
def test_damaged_facts_of_the_run_are_named_before_anything_is_written(name: str, damage: str, small: Workshop):
    (small.path / "run" / name).write_text(damage)
    said = small.refused("export", "run", "--to", "int4", "-d", "some.txt", "-o", "four")
    assert f"{name} can't be read" in said
    assert not (small.path / "four").exists()


def test_it_says_where_another_student_is_the_one_of_four_bits(small: Workshop):
    save_packed(load_model(small.path / "run" / "student"), byte_level(), small.path / "run" / "student-int4")
    (small.path / "run" / "scores.json").write_text(json.dumps({"int4": {"learned_through_rounding": True}}))
    said = small.run("export", "run", "--to", "huggingface", "-d", "some.txt")
    assert said.exit_code == 0, said.output
    assert "that one is student-int4/" in said.output


def test_what_was_not_measured_is_not_called_good(small: Workshop, monkeypatch):
    words = ("export", "run", "--to", "gguf", "--type", "f16", "-d", "some.txt", "--threads", "1")
    assert small.run(*words).exit_code == 0

    def stopped(*_: object, **__: object) -> None:
        raise ModelError("other tokens")

    with monkeypatch.context() as patched:
        patched.setattr("potstill.runs.exporting.check_tokens", stopped)
        assert "other tokens" in small.refused(*words)
    out = small.path / "run" / "export-f16"
    assert {one.name for one in out.iterdir()} == {"run-f16.gguf", "export.json"}
    assert not json.loads((out / "export.json").read_text())["good"]
    assert small.run(*words).exit_code == 0


@pytest.mark.parametrize("to", ["int8", "huggingface"])
def test_models_of_others_are_not_overwritten(to: str, small: Workshop):
    save_model(tiny_model("llama", settings=SIZED), byte_level(), small.path / "other")
    before = (small.path / "other" / "model.safetensors").read_bytes()
    assert "no export (config.json)" in small.refused("export", "run", "--to", to, "-d", "some.txt", "-o", "other")
    assert (small.path / "other" / "model.safetensors").read_bytes() == before
    (small.path / "other" / "export.json").write_text("{}")
    said = small.refused("export", "other", "--to", to, "-d", "some.txt", "-o", "other")
    assert "other holds what is to be exported" in said


def test_what_is_packed_already_is_refused(small: Workshop):
    save_packed(load_model(small.path / "run" / "student"), byte_level(), small.path / "packed")
    for to in ("gguf", "huggingface", "int8"):
        said = small.run("export", "packed", "--to", to, "-d", "some.txt", "-o", f"out-{to}")
        assert said.exit_code == 2
        assert "the weights of packed are packed already" in said.stderr
        assert not (small.path / f"out-{to}").exists()


def test_a_bar_that_was_not_judged_is_said_so(small: Workshop):
    verdict = {"bar": "at least 95%", "metric": "agreement", "least": 0.95, "absolute": False, "value": 0.951}
    (small.path / "run" / "scores.json").write_text(json.dumps({"bars": [{}], "verdicts": [verdict]}))
    assert small.run("export", "run", "--to", "huggingface", "-d", "some.txt", "-o", "hf").exit_code == 0
    page = (small.path / "hf" / "README.md").read_text()
    assert "It is near enough to the student." in page
    assert "| at least 95% | not judged |" in page


def test_a_folder_that_cannot_be_made_and_no_group_are_refused(small: Workshop):
    said = small.refused("export", "run", "--to", "gguf", "-d", "some.txt", "-o", "some.txt/out")
    assert "can't make some.txt/out" in said
    said = small.run("export", "run", "--to", "int4", "--group", "0", "-d", "some.txt")
    assert said.exit_code == 2
    assert "should be greater than or equal to 8" in " ".join(click.unstyle(said.output).split())


def test_engines_are_told_the_context_that_was_written(small: Workshop):
    settings = SIZED | {"sliding_window": 64}
    save_model(tiny_model("mistral", settings=settings, spread=10.0), byte_level(), small.path / "m")
    said = small.run(
        "export", "m", "--to", "gguf", "--type", "f16", "-d", "some.txt", "--length", "32", "--threads", "1"
    )
    assert said.exit_code == 0, said.output
    assert "PARAMETER num_ctx 64\n" in (small.path / "m-f16" / "Modelfile").read_text()
    assert "-c 64 " in (small.path / "m-f16" / "README.md").read_text()
