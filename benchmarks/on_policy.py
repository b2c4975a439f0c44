"""A student learns on its own text, or on that of others: at equal tokens and equal seconds, judged on held-out text and on its own.

python benchmarks/on_policy.py speed
python benchmarks/on_policy.py distilled 0 1 2       the start, then one seed after another; results.jsonl grows
python benchmarks/on_policy.py untouched 0 1 2
python benchmarks/on_policy.py table distilled       prints the rows of on_policy.md
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from transformers import PreTrainedModel

from potstill.data import PackedBatches, TokenCorpus, prompts_of, read_documents, tokenize
from potstill.evaluation import measure, score
from potstill.evaluation.breakdown import habits
from potstill.losses import HARD_LABELS, ForwardKL, JensenShannon, ReverseKL, SoftLabelLoss
from potstill.models import Sampling, complete, faster_dtype, load_model, load_tokenizer, save_model
from potstill.models.asking import whole_rows_at_heads
from potstill.models.generating import held_in
from potstill.runs import held_out_sample
from potstill.students import cuttable_axes, measure_importance, prune, shape_of_share
from potstill.students.prune import Shape
from potstill.teachers import LiveTeacher, RememberingTeacher
from potstill.training import OnPolicy, TrainingSettings, train

OUT = Path("runs/on-policy-benchmark")
LENGTH, ROWS, PROMPT, NEW = 128, 8, 32, 96
TOKENS = {"start": 200_000, "arm": 48_000}
RATES = {"start": 1.5e-3, "distilled": 5e-4, "untouched": 1e-3}
SIZE, DTYPE = 4096, faster_dtype("cpu")
FORWARD, REVERSE, JENSEN = (SoftLabelLoss(one) for one in (ForwardKL(), ReverseKL(), JensenShannon(0.5)))


def everything() -> tuple[PreTrainedModel, TokenCorpus, TokenCorpus, PreTrainedModel]:
    """(teacher, text to learn from, held-out text, a student of half the teacher's width)."""
    tokenizer, teacher = load_tokenizer("pocket"), load_model("pocket")
    if not (OUT / "tokens" / "corpus.json").exists():
        tokenize(read_documents("standard-library"), tokenizer).save(OUT / "tokens")
    corpus = TokenCorpus.load(OUT / "tokens")
    learned, held_out = corpus.part("train"), held_out_sample(corpus.part("held_out"), 8_000, LENGTH)
    if not (OUT / "untouched").exists():
        scores = measure_importance(teacher, held_out_sample(learned, 30_000, LENGTH), length=LENGTH)
        shape = shape_of_share(teacher, dict(cuttable_axes(teacher)), 0.5, start=Shape())
        save_model(prune(teacher, shape, scores)[0], tokenizer, OUT / "untouched")
    return teacher, learned, held_out, load_model(OUT / "untouched")


def begun(kind: str, teacher: PreTrainedModel, learned: TokenCorpus, untouched: PreTrainedModel) -> PreTrainedModel:
    """The student that the arms begin from."""
    if kind == "untouched":
        return untouched
    if not (OUT / "distilled").exists():
        settings = TrainingSettings(TOKENS["start"] // (ROWS * LENGTH), RATES["start"], dtype=DTYPE)
        batches = PackedBatches(learned, LENGTH, ROWS, seed=99)
        for step in train(untouched, LiveTeacher(teacher, size=SIZE), batches, FORWARD, settings):
            if step.index % 50 == 0:
                print("start", step.index, round(step.loss, 3), flush=True)
        save_model(untouched, load_tokenizer("pocket"), OUT / "distilled")
    return load_model(OUT / "distilled")


def plan_of(learned: TokenCorpus, share: float, seed: int, **changes) -> OnPolicy:
    prompts = prompts_of(learned, tokens=PROMPT, longest=PROMPT)
    batches = PackedBatches(learned, LENGTH, ROWS, seed=seed)
    return OnPolicy(batches, prompts, (0,), share, ROWS, NEW, refresh_every=4, seed=seed, **changes)


def judged(student: PreTrainedModel, teacher: PreTrainedModel, held_out: TokenCorpus, marker) -> dict[str, float]:
    """On held-out text, and on what it writes after held-out beginnings: sampled at temperature 1, and greedily."""
    found = measure(student, held_out, length=LENGTH, teacher=marker, size=SIZE, dtype=DTYPE)
    result = {name: score(found, name).value for name in ("nats_per_token", "accuracy", "agreement", "kl_to_teacher")}
    prompts = prompts_of(held_out, tokens=PROMPT, longest=PROMPT)
    beginnings = [prompts[number] for number in range(min(256, len(prompts)))]
    draws = np.random.default_rng(12345).random((len(beginnings), 64), np.float32)
    with torch.no_grad():
        for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            text = complete(student, beginnings, draws, sampling=Sampling(temperature), ends=(0,), size=SIZE, rows=64)
            whole = [torch.from_numpy(np.concatenate(pair)) for pair in zip(beginnings, text, strict=True)]
            ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
            places = torch.arange(1, ids.shape[1])
            counted = torch.stack(
                [(places >= len(p)) & (places < len(w)) for p, w in zip(beginnings, whole, strict=True)]
            )
            log_p, log_q = (one(ids[:, :-1]).logits[counted].float().log_softmax(-1) for one in (teacher, student))
            nats = -log_p.gather(-1, ids[:, 1:][counted][:, None]).sum().item()
            kls, count = (log_q.exp() * (log_q - log_p)).sum().item(), int(counted.sum())
            result[f"teacher_nats_{name}"], result[f"reverse_kl_{name}"] = nats / count, kls / count
    return result | {"repetition": habits(student, held_out, size=SIZE, rows=32, written=64).repetition}


def learned_by(student, marker, text, loss, rate: float, seed: int, steps: int) -> tuple[PreTrainedModel, float, int]:
    """(what it became, seconds of this process alone, tokens read)."""
    student = deepcopy(student).requires_grad_(True)
    settings = TrainingSettings(steps, rate, dtype=DTYPE, seed=seed)
    started, tokens = time.process_time(), 0
    for step in train(student, marker, text, loss, settings):
        tokens += step.tokens
    return student, time.process_time() - started, tokens


def run(kind: str, seed: int) -> None:
    teacher, learned, held_out, untouched = everything()
    start = begun(kind, teacher, learned, untouched)
    marker, beside = LiveTeacher(teacher, size=SIZE), RememberingTeacher(LiveTeacher(teacher, size=SIZE))
    corpus = PackedBatches(learned, LENGTH, ROWS, seed=seed)
    if seed == 0:
        keep({"start": kind, "arm": "as it begins", "seed": 0} | judged(start, teacher, held_out, beside))
        if kind == "distilled":
            keep({"start": kind, "arm": "teacher", "seed": 0} | judged(teacher, teacher, held_out, beside))
    own, mixed = plan_of(learned, 1.0, seed), plan_of(learned, 0.5, seed)
    arms = {
        "on-policy, reverse KL": (own, REVERSE),
        "forward KL": (corpus, FORWARD),
        "reverse KL": (corpus, REVERSE),
        "GKD, share 0.5, JSD 0.5": (mixed, JENSEN),
        "hard labels": (corpus, HARD_LABELS),
    }
    if kind == "distilled":
        arms["on-policy, teacher share 0.2"] = (replace(own, teacher_share=0.2), REVERSE)
    seconds: dict[str, float] = {}
    for name, (text, loss) in arms.items():
        steps = round(TOKENS["arm"] / (ROWS * (LENGTH - 1)))
        student, seconds[name], tokens = learned_by(start, marker, text, loss, RATES[kind], seed, steps)
        figures = {"steps": steps, "seconds": seconds[name], "tokens": tokens}
        keep({"start": kind, "arm": name, "seed": seed} | figures | judged(student, teacher, held_out, beside))
    for name in ("hard labels", "forward KL"):
        more = round(steps * seconds["on-policy, reverse KL"] / seconds[name])
        student, taken, tokens = learned_by(start, marker, *arms[name], RATES[kind], seed, more)
        figures = {"steps": more, "seconds": taken, "tokens": tokens}
        keep(
            {"start": kind, "arm": f"{name}, same seconds", "seed": seed}
            | figures
            | judged(student, teacher, held_out, beside)
        )


def speeds() -> None:
    """Written tokens a second: transformers' generate in the faster dtype, ours, and a whole training."""
    teacher, learned, _, student = everything()
    prompts, marker = prompts_of(learned, tokens=PROMPT, longest=PROMPT), LiveTeacher(teacher, size=SIZE)
    beginnings = [prompts[number] for number in range(400) if prompts.sizes[number] == PROMPT][:64]
    ids = torch.from_numpy(np.stack(beginnings))
    for dtype in (torch.float32, torch.bfloat16):
        writer = held_in(student, dtype).eval()

        def plain(writer=writer) -> int:
            ways = {"max_new_tokens": NEW, "do_sample": True, "top_k": 0, "pad_token_id": 1}
            out = writer.generate(ids, attention_mask=torch.ones_like(ids), **ways)
            return sum(int((row == 0).nonzero()[0]) + 1 if (row == 0).any() else NEW for row in out[:, PROMPT:])

        def ours(writer=writer) -> int:
            draws = np.random.default_rng(0).random((64, NEW), np.float32)
            return sum(
                map(len, complete(writer, beginnings, draws, sampling=Sampling(), ends=(0,), size=SIZE, rows=64))
            )

        def as_rows(writer=writer, plain=plain) -> int:
            with whole_rows_at_heads(writer):
                return plain()

        for name, write in (("transformers' generate", plain), ("... with whole rows", as_rows), ("ours", ours)):
            print(f"{name}, {dtype}: {median_speed(write):,.0f} tokens/s", flush=True)
    for every in (1, 4):
        plan = replace(plan_of(learned, 1.0, 0), rows=16, refresh_every=every)
        taken, written, before = [], [], time.process_time()
        for step in train(deepcopy(student), marker, plan, REVERSE, TrainingSettings(13, dtype=DTYPE)):
            now = time.process_time()
            taken.append(now - before)
            written.append(step.written.tokens)
            before = now
        some = slice(4, 12)  # whole rounds of either, behind the first
        print(
            f"on-policy, refresh_every {every}: {sum(written[some]) / sum(taken[some]):,.0f} written tokens/s",
            flush=True,
        )


def median_speed(write, repeats: int = 5) -> float:
    found = []
    for _ in range(repeats + 1):
        started = time.process_time()
        with torch.no_grad():
            count = write()
        found.append(count / (time.process_time() - started))
    return statistics.median(found[1:])


def keep(result: dict) -> None:
    print(json.dumps(result), flush=True)
    with (OUT / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")


COLUMNS = {  # name: (heading, digits)
    "nats_per_token": ("held out: nats", 3),
    "accuracy": ("right", 3),
    "kl_to_teacher": ("KL", 3),
    "reverse_kl_sampled": ("own text: reverse KL", 3),
    "teacher_nats_sampled": ("nats", 2),
    "teacher_nats_greedy": ("greedy: nats", 2),
    "repetition": ("repeated", 2),
}
AGAINST = "forward KL"


def table(kind: str) -> None:
    """Means over seeds; of both KLs also the difference from forward KL on the corpus, paired by seed, with its interval of 95 %."""
    rows = [json.loads(line) for line in (OUT / "results.jsonl").read_text().splitlines()]
    by_arm: dict[str, dict[int, dict]] = {}
    for row in rows:
        if row["start"] == kind:
            by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    headings = ["", "n", "tokens", "seconds", *(heading for heading, _ in COLUMNS.values())]
    headings += [f"{what} less than {AGAINST}'s" for what in ("KL", "reverse KL")]
    print("| " + " | ".join(headings) + " |\n| --- |" + " ---: |" * (len(headings) - 1))
    for arm, seeds in by_arm.items():
        cells = [arm, str(len(seeds))]
        for name in ("tokens", "seconds"):
            known = [one[name] for one in seeds.values() if name in one]
            cells.append(f"{statistics.mean(known):,.0f}" if known else "")
        cells += [
            f"{statistics.mean(one[name] for one in seeds.values()):.{digits}f}"
            for name, (_, digits) in COLUMNS.items()
        ]
        for name in ("kl_to_teacher", "reverse_kl_sampled"):
            gaps = [by_arm[AGAINST][seed][name] - one[name] for seed, one in seeds.items() if seed in by_arm[AGAINST]]
            cells.append(interval(gaps) if len(gaps) > 1 and arm != AGAINST else "")
        print("| " + " | ".join(cells) + " |")


def interval(gaps: list[float]) -> str:
    """Mean and 95 % interval of Student's t."""
    mean, half = statistics.mean(gaps), stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def main() -> None:
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    match sys.argv[1:]:
        case ["speed"]:
            speeds()
        case ["table", kind]:
            table(kind)
        case [kind, *seeds]:
            for seed in seeds:
                run(kind, int(seed))


if __name__ == "__main__":
    main()
