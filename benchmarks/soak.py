"""Two hours of training and labelling in one process: whether memory, open files and threads stay where they are.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/soak.py run         (two hours; a line of runs/soak.jsonl every ten seconds)
    .venv/bin/python benchmarks/soak.py plot                          (soak.md and soak.svg here, of what there is so far)

One training of the pocket teacher's half goes on for all of the time, with checkpoints. Every 100 of its steps, some documents are labelled
into a store of small shards, another student learns from that store and is saved, and it and the one that goes on are scored beside their
teacher; then that store goes. A second process looks at the first from outside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers.utils.logging import disable_progress_bar

from potstill import (
    ForwardKL,
    LiveTeacher,
    PackedBatches,
    SoftLabelLoss,
    TokenCorpus,
    TrainingSettings,
    copy_layers,
    load_model,
    load_tokenizer,
    measure,
    read_documents,
    save_model,
    tokenize,
    train,
)
from potstill.models import head_of
from potstill.reports.charts import svg_file
from potstill.reports.page import Chart, Curve
from potstill.soft_labels import Manifest, Sampled, Store, begin_store, label
from potstill.teachers import StoredTeacher

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "runs/soak.jsonl"
LENGTH, MEASURE = 128, SoftLabelLoss(ForwardKL())
EVERY, WARM_UP = 10.0, 600.0
ROWS, DOCUMENTS, HELD_OUT, STEPS_A_ROUND, STORED_STEPS = 4, 12, 8, 100, 40
DONE = ("steps", "tokens", "shards", "checkpoints", "scores", "rounds")


def work(done: dict[str, int], place: Path) -> Iterator[None]:
    """Without end; a word after each step or pass."""
    torch.set_num_threads(1)
    disable_progress_bar()
    tokenizer, model = load_tokenizer("pocket"), load_model("pocket")
    teacher = LiveTeacher(model, size=len(tokenizer))
    every = tokenize(itertools.islice(read_documents("standard-library"), 400), tokenizer)
    corpus, held_out = every.part("train"), every.part("held_out").beginnings(LENGTH, range(HELD_OUT))
    settings = TrainingSettings(steps=10**7, checkpoint_every=100)
    student, _ = copy_layers(model, (0, 2, 5))
    student.float().requires_grad_(True)
    batches = PackedBatches(corpus, LENGTH, ROWS)
    whole = train(student, teacher, batches, MEASURE, settings, folder=place / "checkpoints")
    for number in itertools.count():
        for step in itertools.islice(whole, STEPS_A_ROUND):
            done["steps"] += 1
            done["tokens"] += step.tokens
            done["checkpoints"] += step.index % 100 == 0
            yield
        chosen = (np.arange(DOCUMENTS) + number * DOCUMENTS) % len(corpus)
        yield from stored(done, place / "round", teacher, corpus.select(chosen).beginnings(2_000, range(DOCUMENTS)))
        for one in (student, load_model(place / "round/student")):
            measure(one, held_out, length=LENGTH, teacher=teacher)
            done["scores"] += 1
            yield
        shutil.rmtree(place / "round")
        done["rounds"] += 1


def stored(done: dict[str, int], place: Path, teacher: LiveTeacher, corpus: TokenCorpus) -> Iterator[None]:
    """A store of these documents, and a student of it."""
    head = head_of(teacher.model)
    names = {"name": "pocket", "fingerprint": "", "dtype": "float32"}
    of_head = {"scale": head.scale, "softcap": head.softcap}
    manifest = Manifest(Sampled(0.05), teacher.num_tokens, "", names, LENGTH, rows=8, shard_tokens=4_096, head=of_head)
    begin_store(place / "labels", manifest, corpus, head)
    for _ in label(teacher, corpus, place / "labels"):
        yield
    store = Store(place / "labels")
    done["shards"] += len(store.shards)
    done["tokens"] += store.num_tokens
    student, _ = copy_layers(teacher.model, (0, 2, 5))
    student.float().requires_grad_(True)
    marker = StoredTeacher(store, corpus, tokenizer="", measure=MEASURE)
    settings = TrainingSettings(steps=STORED_STEPS, checkpoint_every=20)
    for step in train(student, marker, PackedBatches(corpus, LENGTH, ROWS), MEASURE, settings, folder=place / "steps"):
        done["steps"] += 1
        done["tokens"] += step.tokens
        done["checkpoints"] += step.index % 20 == 0
        yield
    save_model(student, load_tokenizer("pocket"), place / "student")


def worker(until: float, told: Path) -> None:
    """Works until then, and writes how far it is about once a second."""
    done = dict.fromkeys(DONE, 0)
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        last = 0.0
        for _ in work(done, Path(place)):
            now = time.time()
            if now - last > 1:
                part = told.with_suffix(".part")
                part.write_text(json.dumps(done))
                part.replace(told)
                last = now
            if now > until:
                return


def run(seconds: float) -> None:
    """A worker in a process of its own, looked at until it ends."""
    SAMPLES.parent.mkdir(parents=True, exist_ok=True)
    told, began = SAMPLES.with_suffix(".done"), time.time()
    told.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=worker, args=(began + seconds, told))
    process.start()
    seen = psutil.Process(process.pid)
    with SAMPLES.open("w") as file:
        while process.is_alive():
            done = json.loads(told.read_text()) if told.exists() else dict.fromkeys(DONE, 0)
            sample = {
                "seconds": round(time.time() - began, 1),
                "rss": seen.memory_info().rss,
                "files": seen.num_fds(),
                "threads": seen.num_threads(),
                **done,
            }
            print(json.dumps(sample), file=file, flush=True)
            process.join(EVERY)
    raise SystemExit(process.exitcode)


def slope(samples: list[dict]) -> tuple[float, float]:
    """MiB an hour, and its standard error as if samples were independent: by least squares, the warm-up not counted."""
    later = [one for one in samples if one["seconds"] >= WARM_UP]
    if len(later) < 3:
        return float("nan"), float("nan")
    hours = np.array([one["seconds"] / 3600 for one in later])
    mib = np.array([one["rss"] / 2**20 for one in later])
    (a, _), covariance = np.polyfit(hours, mib, 1, cov=True)
    return float(a), float(covariance[0, 0] ** 0.5)


def page(samples: list[dict]) -> str:
    last, warm = samples[-1], next((one for one in samples if one["seconds"] >= WARM_UP), samples[-1])
    later = [one for one in samples if one["seconds"] >= WARM_UP] or samples
    growth, error = slope(samples)

    def span(name: str) -> str:
        low, high = min(one[name] for one in later), max(one[name] for one in later)
        return f"{low} to {high}" if low != high else f"{low}"

    return "\n".join(
        [
            "# Two hours of training and labelling",
            "",
            f"*{date.today()}; `benchmarks/soak.py`; one thread of a {platform.machine()} CPU that others use too; "
            f"torch {version('torch')}, transformers {version('transformers')}.*",
            "",
            "| | |",
            "| --- | ---: |",
            f"| hours | {last['seconds'] / 3600:.2f} |",
            *(f"| {name} | {last[name]:,} |" for name in DONE),
            f"| memory (RSS) at ten minutes, MiB | {warm['rss'] / 2**20:,.0f} |",
            f"| memory at the end, MiB | {last['rss'] / 2**20:,.0f} |",
            f"| least to most after ten minutes, MiB | {min(one['rss'] for one in later) / 2**20:,.0f} to "
            f"{max(one['rss'] for one in later) / 2**20:,.0f} |",
            f"| slope after ten minutes, MiB an hour | {growth:+.1f} ± {error:.1f} |",
            f"| open files after ten minutes | {span('files')} |",
            f"| threads after ten minutes | {span('threads')} |",
            "",
            "A round: 100 steps of a training that goes on for all of the time (a checkpoint every 100), a store of small shards, 40 steps "
            "of another student from that store, saved, and two scores beside the teacher. The slope is by least squares over samples "
            "of ten seconds; ± is its standard error as if these were independent.",
            "",
            "![memory over the hours](soak.svg)",
            "",
        ]
    )


def plot() -> None:
    samples = [json.loads(line) for line in SAMPLES.read_text().splitlines()]
    # The last look may be at a process that was just ending.
    samples = [one for one in samples if one["rss"] and one["threads"] and one["steps"]]
    hours = [one["seconds"] / 3600 for one in samples]
    memory = Curve("memory", hours, [one["rss"] / 2**20 for one in samples], is_highlighted=True)
    files = Curve("open files", hours, [one["files"] for one in samples])
    threads = Curve("threads", hours, [one["threads"] for one in samples])
    chart = Chart("Two hours of training and labelling", "hours", "MiB; files; threads", [memory, files, threads])
    (HERE / "soak.svg").write_text(svg_file(chart), "utf-8")
    (HERE / "soak.md").write_text(page(samples), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "plot"])
    parser.add_argument("--seconds", type=float, default=7200.0)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run(arguments.seconds) if arguments.what == "run" else plot()


if __name__ == "__main__":
    main()
