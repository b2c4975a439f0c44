"""A specialist of less than a quarter of its general teacher, in the teacher's domain and outside it, beside hard labels.

    .venv/bin/python benchmarks/specialist.py digits                             (a minute on one core)
    .venv/bin/python benchmarks/specialist.py text --text NAME=SOURCE ...        (minutes a domain on one core; resumes by arm)
    .venv/bin/python benchmarks/specialist.py table                              (writes specialist.md beside this file)

digits: scikit-learn's, the domain is the same digits turned; the teacher has seen only upright ones. text: the teacher is the pocket model,
which knows Python's standard library; the student is cut from it. All arms of a seed read the same text in the same order; "same time" is
hard labels for as long as the annealed arm. Time is that of the processor, so that other work on the machine is not counted. Seeds: of the
choice and order of the text, of weights that are random.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import nn

from potstill import (
    ForwardKL,
    LiveTeacher,
    PackedBatches,
    Shape,
    SoftLabelLoss,
    TokenCorpus,
    TrainingSettings,
    difference,
    load_model,
    load_tokenizer,
    measure,
    measure_importance,
    prune,
    read_documents,
    score,
    tokenize,
    train,
    train_classifier,
)
from potstill.data import place_of
from potstill.losses import HARD_LABELS
from potstill.models import size_of
from potstill.runs import held_out_sample, manifest
from potstill.training import Annealing

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
Way = tuple[SoftLabelLoss, Annealing | None]
Found = dict[str, dict[str, float]]


def ways(temperature: float) -> Mapping[str, Way]:
    """How the student learns."""
    alone = SoftLabelLoss(ForwardKL(), temperature)
    half = SoftLabelLoss(ForwardKL(), temperature, alpha=0.5)
    return {
        "teacher alone (alpha = 1)": (alone, None),
        "half and half (alpha = 0.5)": (half, None),
        "annealed, 1 to 0": (alone, Annealing()),
        "annealed, 1 to 0 in half the run": (alone, Annealing(over=0.5)),
        "annealed, 0.5 to 0": (half, Annealing()),
        "hard labels, same tokens": (HARD_LABELS, None),
    }


TIMED = "annealed, 1 to 0"
SAME_TIME = "hard labels, same time"

# --- digits

ANGLES, LABELLED, DIGIT_STEPS, DIGIT_SEEDS = (5, 20), (30, 200), 600, tuple(range(5))
WIDE, NARROW = 256, 40


def mlp(hidden: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def digits_of_seed(angle: int, labelled: int, seed: int) -> Found:
    """The teacher reads 700 upright digits, the student a few turned ones; 800 other turned ones are asked."""
    images, labels = load_digits(return_X_y=True)
    turned = rotate(images.reshape(-1, 8, 8), angle, axes=(2, 1), reshape=False, order=1)
    upright, turned = (torch.tensor(one.reshape(-1, 64) / 16, dtype=torch.float32) for one in (images, turned))
    classes = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    general, learned, asked = order[:700], order[700 : 700 + labelled], order[997:]
    teacher = mlp(WIDE, seed)
    for _ in train_classifier(
        teacher, None, upright[general], classes[general], HARD_LABELS, TrainingSettings(steps=1500, seed=seed)
    ):
        pass

    def scores(model: nn.Module, seconds: float = 0.0) -> dict[str, float]:
        with torch.no_grad():
            logits = model.eval()(turned[asked])
        right = (logits.argmax(-1) == classes[asked]).double().mean().item()
        nats = nn.functional.cross_entropy(logits, classes[asked]).item()
        return {"right": 100 * right, "nats": nats, "seconds": seconds, "parameters": parameters(model)}

    def student(way: Way, steps: int) -> dict[str, float]:
        model = mlp(NARROW, 100 + seed)
        settings = TrainingSettings(steps=steps, learning_rate=3e-3, seed=seed)
        started = time.process_time()
        learner = train_classifier(
            model, teacher, turned[learned], classes[learned], way[0], settings, annealing=way[1]
        )
        for _ in learner:
            pass
        return scores(model, time.process_time() - started)

    found = {"general teacher": scores(teacher)}
    found |= {name: student(way, DIGIT_STEPS) for name, way in ways(2.0).items()}
    longer = max(1, round(DIGIT_STEPS * found[TIMED]["seconds"] / found["hard labels, same tokens"]["seconds"]))
    found[SAME_TIME] = student((HARD_LABELS, None), longer)
    return found


# --- text

LENGTH, ROWS, TOKENS, ASKED, RATE = 128, 8, 102_400, 20_000, 3e-3
OF_TEXT = ("teacher alone (alpha = 1)", "half and half (alpha = 0.5)", TIMED, "hard labels, same tokens")
CORRECTION_RATE = 1e-3
STUDENT = Shape(layers=(0, 1, 4, 5), ffn=256, heads=2, hidden=128)


def corpus_of(out: Path, folder: str) -> TokenCorpus:
    """The domain's tokens, made once."""
    kept = out / "tokens"
    if not (kept / "corpus.json").exists():
        tokenize(read_documents(folder), load_tokenizer("pocket")).save(kept)
    return TokenCorpus.load(kept)


def text_of_seed(out: Path, folder: str, seed: int, *, corrected: bool) -> None:
    """Each arm written down as it comes; `corrected`: those of a teacher that has read the text first, as many tokens as the student."""
    path = out / f"{seed}.json"
    found: Found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    corpus, teacher = corpus_of(out, folder), load_model("pocket")
    learn, held_out = corpus.part("train"), held_out_sample(corpus.part("held_out"), ASKED, LENGTH)
    order = np.array(sorted(range(len(learn)), key=lambda d: place_of(f"{seed} {learn.keys[d]}")))
    some = learn.beginnings(4_000, order)
    live = LiveTeacher(teacher, size=len(load_tokenizer("pocket")))
    importance = measure_importance(teacher, held_out_sample(learn, 20_000, LENGTH), length=LENGTH)
    of_teacher = measure(teacher, held_out, length=LENGTH, size=live.num_tokens)

    def scores(model, seconds: float) -> dict[str, float]:
        told = measure(model, held_out, length=LENGTH, size=live.num_tokens)
        nats, right = score(told, "nats_per_token"), score(told, "accuracy")
        less = difference(told, of_teacher, "nats_per_token")
        return {
            "nats": nats.value, "right": 100 * right.value, "seconds": seconds, "parameters": size_of(model).total,
            "less": less.value, "low": less.low, "high": less.high, "documents": nats.n,
        }  # fmt: skip

    def keep(name: str, make: Callable[[], dict[str, float]]) -> None:
        if name not in found:
            found[name] = make()
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(f"{out.name} seed {seed}  {name}: {found[name]}", flush=True)

    batches = PackedBatches(some, LENGTH, ROWS, seed)

    def student(way: Way, steps: int, marker: LiveTeacher = live) -> dict[str, float]:
        model, _ = prune(teacher, STUDENT, importance)
        settings = TrainingSettings(steps=steps, learning_rate=RATE, seed=seed)
        started = time.process_time()
        for _ in train(model, marker, batches, way[0], settings, annealing=way[1]):
            pass
        return scores(model, time.process_time() - started)

    steps = TOKENS // (LENGTH * ROWS)
    if corrected:
        first, *others = (
            "corrected teacher",
            "corrected teacher alone (alpha = 1)",
            "corrected teacher, annealed, 1 to 0",
        )
        if all(name in found for name in (first, *others)):
            return
        learned = load_model("pocket").requires_grad_(True)
        started = time.process_time()
        for _ in train(learned, None, batches, HARD_LABELS, TrainingSettings(steps, CORRECTION_RATE, seed=seed)):
            pass
        seconds = time.process_time() - started
        keep(first, lambda: scores(learned, seconds))
        again = LiveTeacher(learned.requires_grad_(False), size=live.num_tokens)
        for name, way in zip(others, ("teacher alone (alpha = 1)", TIMED), strict=True):
            keep(name, lambda way=way: student(ways(1.0)[way], steps, again))
        return
    keep("general teacher", lambda: scores(teacher, 0.0))
    keep("student as it was cut", lambda: scores(prune(teacher, STUDENT, importance)[0], 0.0))
    for name in OF_TEXT:
        keep(name, lambda name=name: student(ways(1.0)[name], steps))
    longer = max(1, round(steps * found[TIMED]["seconds"] / found["hard labels, same tokens"]["seconds"]))
    keep(SAME_TIME, lambda: student((HARD_LABELS, None), longer))


# --- the table


def mean_and_interval(values: list[float], form: str) -> str:
    """The mean with its 95 % interval of Student's t over seeds."""
    middle = statistics.mean(values)
    if len(values) < 2:
        return form.format(middle)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{form.format(middle)} ({form.format(middle - half)} to {form.format(middle + half)})"


def rows(by_seed: list[Found]) -> list[str]:
    """A line an arm; differences are paired by seed."""
    lines = [
        "| | seeds | % right | nats | nats less than the teacher's | nats less than hard labels' | parameters | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    teacher, hard = "general teacher", "hard labels, same tokens"
    for name in dict.fromkeys(name for one in by_seed for name in one):
        having = [one for one in by_seed if {name, teacher, hard} <= one.keys()]
        if not having:
            continue
        column = {key: [one[name][key] for one in having] for key in ("right", "nats", "seconds", "parameters")}
        less = {other: [one[other]["nats"] - one[name]["nats"] for one in having] for other in (teacher, hard)}
        cells = [
            f"{len(having)}",
            mean_and_interval(column["right"], "{:.1f}"),
            mean_and_interval(column["nats"], "{:.3f}"),
            "" if name == teacher else mean_and_interval(less[teacher], "{:+.3f}"),
            "" if name in (teacher, hard) else mean_and_interval(less[hard], "{:+.3f}"),
            f"{column['parameters'][0] / having[0][teacher]['parameters']:.1%}",
            f"{statistics.mean(column['seconds']):.1f}" if any(column["seconds"]) else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def table(out: Path) -> None:
    processor = str(manifest({})["machine"]["processor"])  # type: ignore[index]
    page = HERE / "specialist.md"
    words = page.read_text("utf-8").partition("<!-- words -->")[2] if page.exists() else ""
    parts = [
        "# A specialist beside its general teacher",
        "",
        f"*{datetime.now(UTC).date().isoformat()}; `benchmarks/specialist.py`; {processor}, one thread of {os.cpu_count()} cores; "
        f"torch {torch.__version__}, float32.*",
        "",
        "Means over seeds with 95 % intervals (Student's t); differences are paired by seed, above 0 = better. Temperature 2 for digits, "
        "1 for text.",
        "",
    ]
    for folder in sorted(path.parent for path in out.glob("*/0.json")):
        found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
        parts += [f"## {folder.name[0].upper()}{folder.name[1:]}", "", *rows(found), ""]
    page.write_text("\n".join(parts) + "\n<!-- words -->" + words, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["digits", "text", "table"])
    parser.add_argument("--text", action="append", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--out", type=Path, default=Path("runs") / "specialist")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models as small as these are faster so
    match arguments.what:
        case "digits":
            for seed, angle, labelled in product(DIGIT_SEEDS, ANGLES, LABELLED):
                path = arguments.out / f"digits turned by {angle} degrees, {labelled} labels" / f"{seed}.json"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    found = digits_of_seed(angle, labelled, seed)
                    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        case "text":
            for name, _, source in (one.partition("=") for one in arguments.text):
                (arguments.out / name).mkdir(parents=True, exist_ok=True)
                for corrected in (False, True):
                    for seed in arguments.seeds:
                        text_of_seed(arguments.out / name, source, seed, corrected=corrected)
        case "table":
            table(arguments.out)


if __name__ == "__main__":
    main()
