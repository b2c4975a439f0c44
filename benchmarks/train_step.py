"""A whole training step beside what a user would pick instead: SmolLM2-135M marks, 20 of its 30 layers learn.

    make bench-setup                                        (brings SmolLM2-135M and TRL)
    .venv/bin/python benchmarks/train_step.py               (rows of 4 x 512; minutes on 2 cores; writes train_step.md here)
    .venv/bin/python benchmarks/train_step.py --quick       (rows of 1 x 256, about a minute; --json adds one JSON object as the last line)

The same packed rows for all, AdamW in all. Online: ours (forward KL, live teacher) and TRL's GKD trainer, off-policy (lmbda 0,
forward KL). Stored: ours from twelve sampled tokens a prediction, held in memory, and plain hard-label training by
transformers.Trainer. Seconds are of whole optimizer steps, the median after the first; memory is the most that each process had while it
trained, models, optimizer and libraries included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from smollm2 import smollm2
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from potstill.data import PackedBatches, read_documents, tokenize
from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.models import faster_dtype, load_model, load_tokenizer
from potstill.students import copy_layers, evenly_spaced
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings, train
from potstill.types import Batch, SparseTargets, Teacher

HERE = Path(__file__).parent
SLOTS, RATE, NOT_INSTALLED = 12, 1e-4, 3
LIVE, STORED = "ours, live teacher", "ours, stored labels"
TRL, PLAIN = "TRL's GKD trainer, off-policy", "transformers.Trainer, hard labels"
CONTENDERS = (LIVE, TRL, STORED, PLAIN)


class Stored:
    """Twelve sampled tokens a prediction, marked beforehand."""

    def __init__(self, teacher: LiveTeacher, batches: PackedBatches, steps: int) -> None:
        self.num_tokens = teacher.num_tokens
        self._marks = {}
        draw = torch.Generator().manual_seed(0)
        for batch in itertools.islice(batches.from_step(0), steps):
            targets = teacher.label(batch)
            ids = [
                torch.multinomial(targets.head.logits(rows).softmax(-1), SLOTS, True, generator=draw)
                for rows in targets.rows.split(128)
            ]
            self._marks[batch.inputs.numpy().tobytes()] = torch.cat(ids)

    def label(self, batch: Batch) -> SparseTargets:
        ids = self._marks[batch.inputs.numpy().tobytes()]
        return SparseTargets(ids, torch.full(ids.shape, 1 / SLOTS), None)


class Clock(TrainerCallback):
    """Seconds of each optimizer step of a Trainer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def ours(student: PreTrainedModel, teacher: Teacher, batches: PackedBatches, steps: int) -> list[float]:
    settings = TrainingSettings(steps=steps, learning_rate=RATE, dtype=faster_dtype("cpu"))
    return [step.seconds for step in train(student, teacher, batches, SoftLabelLoss(ForwardKL()), settings)]


def rows_of(batches: PackedBatches, steps: int) -> Dataset:
    rows = [
        {"input_ids": [*inputs.tolist(), int(targets[-1])]}
        for batch in itertools.islice(batches.from_step(0), steps)
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True)
    ]
    return Dataset.from_list(rows)


def stacked(rows: list[dict]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def arguments_of(
    kind: type[TrainingArguments], folder: str, rows: int, steps: int, **more: object
) -> TrainingArguments:
    return kind(
        output_dir=folder,
        per_device_train_batch_size=rows,
        max_steps=steps,
        learning_rate=RATE,
        bf16=faster_dtype("cpu") == torch.bfloat16,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        logging_strategy="no",
        **more,
    )


def hard_labels(student: PreTrainedModel, batches: PackedBatches, steps: int, folder: str) -> list[float]:
    clock, rows = Clock(), batches.rows
    trainer = Trainer(
        student,
        arguments_of(TrainingArguments, folder, rows, steps),
        data_collator=stacked,
        train_dataset=rows_of(batches, steps),
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds


def trl(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: PackedBatches, steps: int, folder: str
) -> list[float]:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    clock, rows = Clock(), batches.rows
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=arguments_of(GKDConfig, folder, rows, steps, lmbda=0.0, beta=0.0, temperature=1.0),
        data_collator=stacked,
        train_dataset=rows_of(batches, steps),
        processing_class=load_tokenizer(smollm2()),
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds


def one(name: str, rows: int, length: int, steps: int) -> dict[str, object]:
    """A contender, alone in its process: seconds of each step, and the most memory it had in all of them, in GiB."""
    tokenizer, model = load_tokenizer(smollm2()), load_model(smollm2())
    documents = itertools.islice(read_documents("standard-library"), 40)
    batches = PackedBatches(tokenize(documents, tokenizer).part("train"), length, rows)
    live = LiveTeacher(model, size=len(tokenizer))
    student = copy_layers(model, evenly_spaced(30, 20))[0].requires_grad_(True)
    marker = Stored(live, batches, steps) if name == STORED else live
    if name in (STORED, PLAIN):
        del live, model
    forget_most_memory()
    with tempfile.TemporaryDirectory() as folder:
        if name == TRL:
            seconds = trl(student, model, batches, steps, folder)
        elif name == PLAIN:
            seconds = hard_labels(student, batches, steps, folder)
        else:
            seconds = ours(student, marker, batches, steps)
    most = most_memory()
    return {"seconds": seconds, "memory": most, "shares": profiled(student, live, batches) if name == LIVE else {}}


def forget_most_memory() -> None:
    """Of Linux: the most that follows is counted from here."""
    Path("/proc/self/clear_refs").write_text("5", "utf-8")


def most_memory() -> float:
    return int(Path("/proc/self/status").read_text("utf-8").split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", choices=CONTENDERS, help="this one alone, its figures as JSON")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows, length, steps = (1, 256, 3) if arguments.quick else (4, 512, 4)
    if arguments.contender is not None:
        try:
            print(json.dumps(one(arguments.contender, rows, length, steps)))
        except ImportError:
            raise SystemExit(NOT_INSTALLED) from None
        return
    found: dict[str, float] = {}
    memory: dict[str, float] = {}
    profile: dict[str, float] = {}
    for name in CONTENDERS:
        # Each in a process of its own: a Trainer changes settings of torch and accelerate for all that follow.
        command = [sys.executable, __file__, "--contender", name, *(["--quick"] if arguments.quick else [])]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if ran.returncode == NOT_INSTALLED:
            print(f"left out: {name}")
            continue
        ran.check_returncode()
        told = json.loads(ran.stdout.splitlines()[-1])
        found[name], memory[name] = statistics.median(told["seconds"][1:]), told["memory"]
        profile |= told["shares"]
        per_second = rows * length / found[name]
        print(
            f"{name:36s} {found[name]:7.2f} s a step  {per_second:7.0f} tokens/s  {memory[name]:5.1f} GiB", flush=True
        )
    ratios = {
        "speedup_over_trl_gkd": ratio(found, TRL, LIVE),
        "share_of_plain_training": ratio(found, PLAIN, STORED),
    }
    if not arguments.quick:
        (HERE / "train_step.md").write_text(page(found, memory, ratios, rows, length, profile), "utf-8")
    if arguments.json:
        print(json.dumps(ratios))


def ratio(found: dict[str, float], one: str, other: str) -> float | None:
    return round(found[one] / found[other], 3) if one in found and other in found else None


def profiled(student: PreTrainedModel, teacher: Teacher, batches: PackedBatches) -> dict[str, float]:
    """The share of each kind of operation in our second step."""
    settings = TrainingSettings(steps=2, learning_rate=RATE, dtype=faster_dtype("cpu"))
    steps = train(student, teacher, batches, SoftLabelLoss(ForwardKL()), settings)
    next(steps)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        next(steps)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole = sum(times.values())
    shares = {"matrix products": 0.0, "attention": 0.0, "softmax and exponentials of the loss": 0.0, "optimizer": 0.0}
    names = ("aten::mm", "scaled_dot_product", "aten::_softmax", "_fused_adamw")
    for share, name in zip(list(shares), names, strict=True):
        shares[share] = sum(time for key, time in times.items() if name in key) / whole
    return shares | {"everything else": 1 - sum(shares.values())}


def page(
    found: dict[str, float],
    memory: dict[str, float],
    ratios: dict[str, float | None],
    rows: int,
    length: int,
    profile: dict[str, float],
) -> str:
    lines = [
        f"| {name} | {seconds:.2f} | {rows * length / seconds:.0f} | {memory[name]:.2f} |"
        for name, seconds in found.items()
    ]
    machine = f"{os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), {faster_dtype('cpu')}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    return "\n".join(
        [
            "# A training step",
            "",
            f"*{date.today().isoformat()}; `benchmarks/train_step.py`; {machine}; {packages}.*",
            f"*SmolLM2-135M marks, 20 of its 30 layers learn; rows of {rows} × {length} tokens.*",
            "",
            "| | s a step | tokens/s | most memory, GiB |",
            "| --- | ---: | ---: | ---: |",
            *lines,
            "",
            f"Over TRL's GKD trainer: {ratios['speedup_over_trl_gkd']} ×. Stored labels reach {ratios['share_of_plain_training']} of the "
            "speed of plain training.",
            "",
            f"The limit: plain training, which has no teacher to ask, takes {found[PLAIN]:.1f} s. Where ours goes:",
            "",
            "| share of a step (torch.profiler) | |",
            "| --- | ---: |",
            *(f"| {name} | {share:.0%} |" for name, share in profile.items()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
