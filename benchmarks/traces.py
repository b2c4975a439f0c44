"""What a student learns from a teacher's written reasoning: worked steps beside bare answers, filtered or not, with soft labels or without.

    .venv/bin/python benchmarks/traces.py           (after reasoning_problems.py; an hour and a half on one core; resumes; writes traces.md)

The teacher, a Llama of four layers over single characters, has learned 30,000 sums with their worked steps. It works 3,000 others, which
the student learns from: a Llama of two layers. All arms of a seed read as many tokens. Asked are 500 sums that neither has seen, greedily;
right is the exact answer.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from potstill.data import PackedBatches, TokenCorpus, judge_of, read_documents, tokenize
from potstill.losses import HARD_LABELS, ForwardKL, Measure, SoftLabelLoss
from potstill.models import load_model, save_model
from potstill.teachers import LiveTeacher
from potstill.training import Cosine, TrainingSettings, train
from potstill.types import Teacher
from potstill.writing import (
    Journal,
    LocalWriter,
    Prompt,
    Rationale,
    Sampling,
    Selection,
    Steps,
    judged,
    read_prompts,
    rows,
    select,
    write,
    write_rows,
)

HERE, OUT = Path(__file__).parent, Path("runs") / "traces"
TAUGHT, ASKED_OF_TEACHER, HELD_OUT = 30_000, 3_000, 500
LENGTH, ROWS, TEACHER_STEPS, STEPS, SEEDS = 256, 8, 1_600, 2_500, 3
PATTERN = r"(?s)(?P<rationale>.*)= (?P<answer>-?\d+)\s*$"
SOFT = SoftLabelLoss(ForwardKL())


def characters() -> PreTrainedTokenizerFast:
    signs = ["<|end|>", *"0123456789+-= \n", *"[]labertion"]
    vocabulary = {sign: number for number, sign in enumerate(dict.fromkeys(signs))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r".|\n"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", clean_up_tokenization_spaces=False
    )


def llama(size: int, *, layers: int, width: int, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def texts(name: str, some: Iterator[dict[str, object]] | Sequence[dict[str, object]], tokenizer) -> TokenCorpus:
    """Rows of prompt and completion as tokens."""
    path = OUT / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    return tokenize(read_documents(path), tokenizer)


def learned(
    student: PreTrainedModel, marker: Teacher | None, corpus: TokenCorpus, loss: Measure, *, steps: int, seed: int
) -> PreTrainedModel:
    settings = TrainingSettings(steps, 3e-3, Cosine(warmup=0.05, floor=0.05), seed=seed)
    for step in train(student, marker, PackedBatches(corpus, LENGTH, ROWS, seed=seed), loss, settings):
        if step.index % 250 == 0:
            print(f"  step {step.index}: {step.loss:.4f}, {step.seconds:.2f} s", flush=True)
    return student.eval()


def right(model: PreTrainedModel, tokenizer, prompts: Sequence[Prompt], *, label: str = "") -> float:
    """The share of the prompts whose last number written is the answer."""
    writer = LocalWriter(model, tokenizer, Sampling(temperature=0.0, max_new_tokens=90), rows=64)
    asked = [Prompt(one.id, one.key, f"{label}{one.sent}", one.bare, one.answer, one.where) for one in prompts]
    found = {written.id: written.samples[0].text for written in writer.write(asked)}
    last = {id: (re.findall(r"-?\d+", text) or [""])[-1] for id, text in found.items()}
    return sum(last[one.id] == one.answer for one in prompts) / len(prompts)


def run() -> None:
    tokenizer = characters()
    problems = [json.loads(line) for line in (OUT / "problems.jsonl").read_text("utf-8").splitlines()]
    taught, given = problems[:TAUGHT], problems[TAUGHT : TAUGHT + ASKED_OF_TEACHER]
    held_out = problems[TAUGHT + ASKED_OF_TEACHER :][:HELD_OUT]
    prompts, asked = (read_prompts(jsonl(name, some)) for name, some in (("given", given), ("held_out", held_out)))
    results = OUT / "results.json"
    found = json.loads(results.read_text("utf-8")) if results.exists() else {}
    worked = lambda some: [{"prompt": one["prompt"], "completion": one["steps"]} for one in some]  # noqa: E731
    if not (OUT / "teacher" / "config.json").exists():
        corpus = texts("taught", worked(taught), tokenizer)
        print(f"{corpus.num_tokens:,} tokens for the teacher", flush=True)
        teacher = learned(
            llama(len(tokenizer), layers=4, width=128, seed=0), None, corpus, HARD_LABELS, steps=TEACHER_STEPS, seed=0
        )
        save_model(teacher, tokenizer, OUT / "teacher")
    teacher = load_model(OUT / "teacher")
    if "teacher" not in found:
        found["teacher"] = right(teacher, tokenizer, asked)
        print("teacher", found["teacher"], flush=True)
    wrote = OUT / "written"
    with Journal(wrote / "journal.jsonl", {"model": "teacher of traces"}) as journal:
        for _ in write(prompts, LocalWriter(teacher, tokenizer, Sampling(max_new_tokens=90), rows=64), journal):
            pass
        rationale = Rationale.of(PATTERN)
        exact = Selection((judged("exact", judge_of("exact")),), rationale=rationale)
        filtered, everything = select(prompts, journal, exact), select(prompts, journal, Selection(rationale=rationale))
        found["kept"] = [len(filtered.kept), len(everything.kept)]
        write_rows(OUT / "filtered.jsonl", rows(prompts, journal, filtered, exact))
        write_rows(OUT / "unfiltered.jsonl", rows(prompts, journal, everything, Selection(rationale=rationale)))
        steps = rows(prompts, journal, filtered, exact, steps=Steps(tokenizer, between=""))
        write_rows(OUT / "steps.jsonl", steps)
    print(found, flush=True)
    answers = texts("answers", [{"prompt": p["prompt"], "completion": p["answer"]} for p in given], tokenizer)
    gold = texts("gold", worked(given), tokenizer)
    read = partial(lambda name: tokenize(read_documents(OUT / f"{name}.jsonl"), tokenizer))
    marker = LiveTeacher(teacher, size=len(tokenizer))
    arms: dict[str, tuple[TokenCorpus, Teacher | None, Measure, str]] = {
        "right answers alone": (answers, None, HARD_LABELS, ""),
        "the teacher's steps, right ones": (read("filtered"), None, HARD_LABELS, ""),
        "the teacher's steps, right ones, and soft labels": (read("filtered"), marker, SOFT, ""),
        "the teacher's steps, all of them": (read("unfiltered"), None, HARD_LABELS, ""),
        "answers and the teacher's steps as two tasks": (read("steps"), None, HARD_LABELS, "[label] "),
        "steps from the generator itself": (gold, None, HARD_LABELS, ""),
    }
    for seed in range(SEEDS):
        for name, (corpus, teaching, loss, label) in arms.items():
            if f"{name}/{seed}" in found:
                continue
            student = llama(len(tokenizer), layers=2, width=96, seed=100 + seed)
            began = time.process_time()
            student = learned(student, teaching, corpus, loss, steps=STEPS, seed=seed)
            seconds = time.process_time() - began
            found[f"{name}/{seed}"] = [right(student, tokenizer, asked, label=label), seconds]
            results.write_text(json.dumps(found, indent=1), "utf-8")
            (HERE / "traces.md").write_text(page(found), "utf-8")
            print(f"{name}, seed {seed}: {found[f'{name}/{seed}'][0]:.1%}, {seconds:.0f} s", flush=True)


def jsonl(name: str, some: Sequence[dict[str, object]]) -> Path:
    path = OUT / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    return path


def page(found: dict) -> str:
    by_arm: dict[str, list[list[float]]] = {}
    for key, one in found.items():
        if "/" in key:
            by_arm.setdefault(key.rpartition("/")[0], []).append(one)
    lines = ["| learns from | right | by seed | seconds |", "| --- | ---: | ---: | ---: |"]
    for name, seeds in by_arm.items():
        values = [one[0] for one in seeds]
        half = 4.303 * statistics.stdev(values) / math.sqrt(3) if len(values) == 3 else math.nan
        mean = statistics.mean(values)
        each = ", ".join(f"{value:.1%}" for value in values)
        interval = f" ({max(0, mean - half):.1%} to {min(1, mean + half):.1%})" if len(values) == 3 else ""
        lines.append(f"| {name} | {mean:.1%}{interval} | {each} | {statistics.mean(one[1] for one in seeds):.0f} |")
    old = (HERE / "traces.md").read_text("utf-8") if (HERE / "traces.md").exists() else ""
    kept, everything = found["kept"]
    return "\n".join(
        [
            "# Reasoning that a teacher wrote",
            "",
            f"*{date.today().isoformat()}; `benchmarks/traces.py`; one of {os.cpu_count()} cores "
            f"({torch.backends.cpu.get_cpu_capability()}), float32; torch {version('torch')}, transformers {version('transformers')}.*",
            f"*Sums of three and four numbers (reasoning-gym's chain_sum). The teacher has {found['teacher']:.1%} right; it wrote steps "
            f"for {ASKED_OF_TEACHER:,} sums at temperature 1, of which {everything:,} could be read and {kept:,} end with the right "
            f"answer. Students read {STEPS:,} steps of {ROWS} x {LENGTH} tokens; {HELD_OUT} sums held out. Seconds are of the processor, "
            "while others used it as well.*",
            "",
            *lines,
            "",
            "In brackets 95 % intervals of the mean over seeds (t, n = 3).",
            "",
            "<!-- words -->" + old.partition("<!-- words -->")[2],
        ]
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    run()
