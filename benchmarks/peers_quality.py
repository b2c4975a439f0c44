"""The same student from the same tokens by potstill, TRL, Model-Optimizer and a loop by hand: what is it worth, what did it cost?

    .venv/bin/python benchmarks/peers_quality.py                (minutes on one core; writes peers_quality.json here)
    .venv/bin/python benchmarks/peers_quality.py --same-time    (the second part alone, by the times of the first)

The pocket teacher marks, three of its six layers learn, forward KL at T = 1 alone; every trainer gets the same packed rows, AdamW with the
same settings and the same rate at each step. potstill measures all on the same held-out text. What isn't installed is left out. Then each
learns again for as many steps as it makes in the time that potstill took, the rate falling over those.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainingArguments

import potstill as ps
from potstill.runs import held_out_sample
from potstill.training import Cosine

HERE = Path(__file__).parent
KEPT = HERE / "peers_quality.json"
STEPS, ROWS, LENGTH, RATE = 50, 8, 256, 1e-3
SEEDS = (0, 1, 2)
Optimizer = tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]


def ours(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches, steps: int) -> None:
    settings = ps.TrainingSettings(steps=steps, learning_rate=RATE)
    for _ in ps.train(student, marker, batches, ps.SoftLabelLoss(ps.ForwardKL()), settings):
        pass


def by_hand(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches, steps: int) -> None:
    optimizer, schedule = adamw(student, steps)
    student.train()
    for batch in itertools.islice(batches.from_step(0), steps):
        with torch.no_grad():
            p = marker.model(input_ids=batch.inputs).logits.float().log_softmax(-1)
        q = student(input_ids=batch.inputs).logits.float().log_softmax(-1)
        (F.kl_div(q, p, reduction="sum", log_target=True) / batch.inputs.numel()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def trl(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches, steps: int) -> None:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    with tempfile.TemporaryDirectory() as folder:
        GKDTrainer(
            model=student,
            teacher_model=marker.model,
            args=arguments(GKDConfig, folder, steps, lmbda=0.0, beta=0.0),
            data_collator=stacked,
            train_dataset=rows_of(batches, steps),
            processing_class=ps.load_tokenizer("pocket"),
            optimizers=adamw(student, steps),
        ).train()


def modelopt(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches, steps: int) -> None:
    from modelopt.torch.distill.plugins.huggingface import KDTrainer

    with tempfile.TemporaryDirectory() as folder:
        KDTrainer(
            student,
            arguments(TrainingArguments, folder, steps),
            data_collator=stacked,
            train_dataset=rows_of(batches, steps),
            distill_args={"teacher_model": marker.model},
            optimizers=adamw(student, steps),
        ).train()


CONTENDERS: dict[str, Callable[[PreTrainedModel, ps.LiveTeacher, ps.PackedBatches, int], None]] = {
    "potstill": ours,
    "a loop by hand, F.kl_div": by_hand,
    "TRL, GKDTrainer": trl,
    "Model-Optimizer, KDTrainer": modelopt,
}


def adamw(student: PreTrainedModel, steps: int) -> Optimizer:
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: Cosine().factor(step, steps))


def arguments(kind: type[TrainingArguments], folder: str, steps: int, **more: object) -> TrainingArguments:
    return kind(
        output_dir=folder,
        per_device_train_batch_size=ROWS,
        max_steps=steps,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        logging_strategy="no",
        **more,
    )


def rows_of(batches: ps.PackedBatches, steps: int) -> Dataset:
    return Dataset.from_list(
        [
            {"input_ids": [*inputs.tolist(), int(targets[-1])]}
            for batch in itertools.islice(batches.from_step(0), steps)
            for inputs, targets in zip(batch.inputs, batch.targets, strict=True)
        ]
    )


def stacked(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tokenizer, teacher = ps.load_tokenizer("pocket"), ps.load_model("pocket").float()
    new = ps.copy_layers(teacher, ps.evenly_spaced(6, 3))[0].float().requires_grad_(True)
    corpus = ps.tokenize(ps.read_documents("standard-library"), tokenizer)
    held_out = held_out_sample(corpus.part("held_out"), 20_000, LENGTH)
    marker = ps.LiveTeacher(teacher, size=len(tokenizer))
    result = json.loads(KEPT.read_text("utf-8")) if "--same-time" in sys.argv else {}

    def nats(model: PreTrainedModel) -> float:
        measured = ps.measure(model, held_out, length=LENGTH, size=marker.num_tokens)
        return ps.score(measured, "nats_per_token").value

    def learn(part: str, name: str, seed: int, steps: int) -> None:
        batches = ps.PackedBatches(corpus.part("train"), LENGTH, ROWS, seed)
        student = deepcopy(new)
        torch.manual_seed(seed)
        started = time.process_time()
        try:
            CONTENDERS[name](student, marker, batches, steps)
        except ImportError as error:
            print(f"left out: {name} ({error})")
            return
        seconds = time.process_time() - started
        of_seed = {"nats": nats(student.eval()), "seconds": seconds, "steps": steps}
        assert math.isfinite(of_seed["nats"])
        print(part, seed, name, of_seed, flush=True)
        result[part].setdefault(name, []).append(of_seed)
        KEPT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

    if not result:
        untouched = {"teacher": nats(teacher), "student, untouched": nats(new)}
        result |= {"date": date.today().isoformat(), "untouched": untouched, "found": {}}
        for seed, name in itertools.product(SEEDS, CONTENDERS):
            learn("found", name, seed, STEPS)
    took = {name: statistics.median(one["seconds"] for one in runs) for name, runs in result["found"].items()}
    result["same_time"] = {}
    for seed, name in itertools.product(SEEDS, took):
        learn("same_time", name, seed, round(STEPS * took["potstill"] / took[name]))


if __name__ == "__main__":
    main()
