"""The same student from the same tokens by potstill, TRL, Model-Optimizer and a loop by hand: what is it worth, what did it cost?

    .venv/bin/python benchmarks/peers_quality.py            (minutes on one core; writes peers_quality.json here)

The pocket teacher marks, three of its six layers learn, forward KL at T = 1 alone; every trainer gets the same packed rows, AdamW with the
same settings and the same rate at each step. potstill measures all on the same held-out text. What isn't installed is left out.
"""

from __future__ import annotations

import itertools
import json
import math
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
STEPS, ROWS, LENGTH, RATE = 50, 8, 256, 1e-3
Optimizer = tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]


def ours(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches) -> None:
    settings = ps.TrainingSettings(steps=STEPS, learning_rate=RATE)
    for _ in ps.train(student, marker, batches, ps.SoftLabelLoss(ps.ForwardKL()), settings):
        pass


def by_hand(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches) -> None:
    optimizer, schedule = adamw(student)
    student.train()
    for batch in itertools.islice(batches.from_step(0), STEPS):
        with torch.no_grad():
            p = marker.model(input_ids=batch.inputs).logits.float().log_softmax(-1)
        q = student(input_ids=batch.inputs).logits.float().log_softmax(-1)
        (F.kl_div(q, p, reduction="sum", log_target=True) / batch.inputs.numel()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def trl(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches) -> None:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    with tempfile.TemporaryDirectory() as folder:
        GKDTrainer(
            model=student,
            teacher_model=marker.model,
            args=arguments(GKDConfig, folder, lmbda=0.0, beta=0.0),
            data_collator=stacked,
            train_dataset=rows_of(batches),
            processing_class=ps.load_tokenizer("pocket"),
            optimizers=adamw(student),
        ).train()


def modelopt(student: PreTrainedModel, marker: ps.LiveTeacher, batches: ps.PackedBatches) -> None:
    from modelopt.torch.distill.plugins.huggingface import KDTrainer

    with tempfile.TemporaryDirectory() as folder:
        KDTrainer(
            student,
            arguments(TrainingArguments, folder),
            data_collator=stacked,
            train_dataset=rows_of(batches),
            distill_args={"teacher_model": marker.model},
            optimizers=adamw(student),
        ).train()


CONTENDERS: dict[str, Callable[[PreTrainedModel, ps.LiveTeacher, ps.PackedBatches], None]] = {
    "potstill": ours,
    "a loop by hand, F.kl_div": by_hand,
    "TRL, GKDTrainer": trl,
    "Model-Optimizer, KDTrainer": modelopt,
}


def adamw(student: PreTrainedModel) -> Optimizer:
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: Cosine().factor(step, STEPS))


def arguments(kind: type[TrainingArguments], folder: str, **more: object) -> TrainingArguments:
    return kind(
        output_dir=folder,
        per_device_train_batch_size=ROWS,
        max_steps=STEPS,
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


def rows_of(batches: ps.PackedBatches) -> Dataset:
    return Dataset.from_list(
        [
            {"input_ids": [*inputs.tolist(), int(targets[-1])]}
            for batch in itertools.islice(batches.from_step(0), STEPS)
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
    found: dict[str, list[dict[str, float]]] = {}

    def nats(model: PreTrainedModel) -> float:
        measured = ps.measure(model, held_out, length=LENGTH, size=marker.num_tokens)
        return ps.score(measured, "nats_per_token").value

    untouched = {"teacher": nats(teacher), "student, untouched": nats(new)}
    for seed in (0, 1, 2):
        for name, run in CONTENDERS.items():
            batches = ps.PackedBatches(corpus.part("train"), LENGTH, ROWS, seed)
            student = deepcopy(new)
            torch.manual_seed(seed)
            started = time.process_time()
            try:
                run(student, marker, batches)
            except ImportError as error:
                print(f"left out: {name} ({error})")
                continue
            seconds = time.process_time() - started
            found.setdefault(name, []).append({"nats": nats(student.eval()), "seconds": seconds})
            print(seed, name, found[name][-1], flush=True)
            assert math.isfinite(found[name][-1]["nats"])
            result = {"date": date.today().isoformat(), "untouched": untouched, "found": found}
            (HERE / "peers_quality.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
