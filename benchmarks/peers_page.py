"""Beside what users would pick instead: gathers peers.md and its picture, and counts the lines that one job takes.

    .venv/bin/python benchmarks/peers_page.py        (seconds; reads peers_quality.json, which peers_quality.py writes)

`make bench` runs all of it. The job of benchmarks/peers/job/: forward KL at T = 1 from a live teacher, packed text of a folder, two steps,
held-out perplexity, a student on disk. Lines are those that ruff leaves at 120 columns, without blanks, comments and imports.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
from collections.abc import Iterable
from datetime import date
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from peers import words

HERE = Path(__file__).parent
PACKAGES = (
    "potstill",
    "torch",
    "transformers",
    "trl",
    "torchtune",
    "liger-kernel",
    "nvidia-modelopt",
    "torchdistill",
    "distillkit",
)
JOBS = {
    "potstill, a recipe": "potstill.toml",
    "potstill, Python": "potstill_python.py",
    "Model-Optimizer, KDTrainer": "modelopt_kd.py",
    "TRL, GKDTrainer": "trl_gkd.py",
    "transformers.Trainer, a subclass": "transformers_trainer.py",
}
TORCHTUNE = "recipes/configs/llama3_2/8B_to_1B_KD_lora_single_device.yaml"


def lines_of(path: Path) -> int:
    text = path.read_text("utf-8").splitlines()
    skipped = set()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse("\n".join(text))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = [line for number, line in enumerate(text, 1) if number not in skipped]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in kept)


def torchtune_lines() -> int | None:
    try:
        return lines_of(Path(str(distribution("torchtune").locate_file(TORCHTUNE))))
    except (PackageNotFoundError, FileNotFoundError):
        return None


def installed() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def drawn(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    plt.rcParams["svg.hashsalt"] = "potstill"
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for name, runs in found.items():
        axes.scatter([run["seconds"] for run in runs], [run["nats"] for run in runs], label=name, s=30)
    axes.set_xlabel("seconds of processor time")
    axes.set_ylabel("nats a token, held out")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def page(quality: dict) -> Iterable[str]:
    yield "# Beside the others"
    yield ""
    machine = f"{os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), no GPU"
    yield f"*{date.today().isoformat()}; `benchmarks/peers_page.py`; {machine};*"
    yield f"*{installed()}.*"
    yield words.FIRST
    yield "## Quality at equal tokens, and in equal time"
    yield ""
    yield words.QUALITY.strip()
    yield ""
    untouched = quality["untouched"]
    yield f"{quality['date']}. Teacher {untouched['teacher']:.3f} nats, student before it learns {untouched['student, untouched']:.3f}."
    yield ""
    yield "| | nats a token, each seed | processor seconds, median | steps in potstill's seconds | nats then |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, runs in quality["found"].items():
        others = quality["same_time"].get(name, [])
        each, then = (", ".join(f"{run['nats']:.3f}" for run in some) for some in (runs, others))
        seconds = statistics.median(run["seconds"] for run in runs)
        yield f"| {name} | {each} | {seconds:.0f} | {others[0]['steps'] if others else ''} | {then} |"
    yield ""
    yield words.BY_DESIGN.strip()
    yield ""
    yield "![quality and processor time](peers.svg)"
    yield ""
    yield "## Lines a user writes"
    yield ""
    yield words.JOB.strip()
    yield ""
    yield "| | lines |"
    yield "| --- | ---: |"
    for name, file in JOBS.items():
        yield f"| [{name}](peers/job/{file}) | {lines_of(HERE / 'peers' / 'job' / file)} |"
    if (number := torchtune_lines()) is not None:
        yield f"| torchtune, its own configuration for LoRA students; not run, no perplexity | {number} |"
    yield ""
    yield words.LINES.strip()
    yield ""
    yield words.NOT_RUN.strip()


def main() -> None:
    quality = json.loads((HERE / "peers_quality.json").read_text("utf-8"))
    drawn(quality["found"], HERE / "peers.svg")
    (HERE / "peers.md").write_text("\n".join(page(quality)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
