"""What features add to soft labels: each term of `FeatureLoss` beside forward KL alone and hard labels, at equal tokens.

    .venv/bin/python benchmarks/features.py --tokens 100000 --seeds 3          (pocket, on this machine's standard library; resumes)

Two students of the pocket teacher: half of its layers (0, 3, 5 of 6), and half of its parameters cut in width (Minitron's scores). All
arms of a student read the same tokens in the same order. Scores are on held-out documents, differences paired by document. Seconds are of
processor time, so that other work on the machine doesn't count.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from copy import deepcopy
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from prune_ladder import LENGTH, corpora, kept
from transformers import PreTrainedModel

from potstill.data import PackedBatches, TokenCorpus
from potstill.evaluation import measure
from potstill.losses import (
    HARD_LABELS,
    AttentionMapLoss,
    AttentionRelationLoss,
    FeatureLoss,
    ForwardKL,
    HiddenLoss,
    Projection,
    SoftLabelLoss,
)
from potstill.models import head_of, load_model, load_tokenizer
from potstill.students import (
    copy_layers,
    cuttable_axes,
    ends_of_blocks,
    last_layers,
    measure_importance,
    prune,
    shape_of_share,
)
from potstill.teachers import LiveTeacher, RememberingTeacher
from potstill.training import Cosine, TrainingSettings, train
from potstill.types import EMBEDDINGS

HERE = Path(__file__).parent
# Steps between two looks at the gradient.
EVERY = 16
SOFT = SoftLabelLoss(ForwardKL())
HARD, PLAIN = "hard labels", "forward KL"


def features(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, FeatureLoss | None]:
    """Each arm and what it adds to the loss of its labels; weights are 1 where none is said."""
    ours, theirs = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    widths = student.config.hidden_size, teacher.config.hidden_size
    projection = None if widths[0] == widths[1] else Projection(*widths)
    last, blocks = last_layers(1, ours, theirs), ends_of_blocks(ours, theirs)
    cosine = HiddenLoss(last, projection=projection)
    mse = HiddenLoss(blocks, distance="mse", projection=projection, standardised=True)
    embeddings = HiddenLoss(((EMBEDDINGS, EMBEDDINGS),), distance="mse", projection=projection, standardised=True)
    maps = AttentionMapLoss(blocks, causal=True)
    minilm = AttentionRelationLoss(last, causal=True, relations=("attention", "value"))
    second = AttentionRelationLoss(last, causal=True, heads=4)
    little = [replace(one, weight=0.1) for one in (maps, minilm, second)]
    found = {
        HARD: None,
        PLAIN: None,
        "+ hidden, cosine, last": FeatureLoss((cosine,)),
        "+ hidden, cka, uniform": FeatureLoss((HiddenLoss(blocks, distance="cka"),)),
        "+ relations of MiniLMv2, 0.1": FeatureLoss((little[2],)),
        "+ attention maps, 0.1": FeatureLoss((little[0],)),
        "+ hidden, mse, uniform": FeatureLoss((mse,)),
        "+ embeddings, mse": FeatureLoss((embeddings,)),
        "+ hidden, cosine, last, dynamic": FeatureLoss((cosine,), "dynamic"),
        "+ all of TinyBERT's, maps 0.1": FeatureLoss((mse, embeddings, little[0])),
        "+ relations of MiniLM, 0.1": FeatureLoss((little[1],)),
        "+ attention maps": FeatureLoss((maps,)),
        "+ relations of MiniLM": FeatureLoss((minilm,)),
        "+ relations of MiniLMv2": FeatureLoss((second,)),
    }
    return {arm: None if loss is None else replace(loss, shares_every=EVERY) for arm, loss in found.items()}


def learned(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    learn: TokenCorpus,
    arm: str,
    added: FeatureLoss | None,
    seed: int,
    wanted: argparse.Namespace,
) -> dict:
    """Trains the student; what it took."""
    layers, attention = ((), ()) if added is None else (added.teacher_layers, added.teacher_attention)
    marker = LiveTeacher(teacher, size=head_of(teacher).num_tokens, layers=layers, attention=attention)
    steps = learn.num_tokens // (wanted.rows * LENGTH)
    settings = TrainingSettings(steps, wanted.rate, Cosine(warmup=0.1, floor=0.1), seed=seed)
    batches = PackedBatches(learn, LENGTH, wanted.rows, seed=seed)
    began, shares = time.process_time(), []
    for step in train(student, marker, batches, HARD_LABELS if arm == HARD else SOFT, settings, features=added):
        shares += [1 - step.shares["labels"]] if step.shares else []
    return {"seconds": time.process_time() - began, "shares": shares, "steps": steps}


def run(wanted: argparse.Namespace, out: Path) -> dict:
    tokenizer, teacher = load_tokenizer(wanted.teacher), load_model(wanted.teacher)
    learn, held_out = corpora(wanted.text, tokenizer, wanted.tokens, wanted.held_out)
    found = json.loads(out.read_text("utf-8")) if out.exists() else {"arms": {}}
    beside = RememberingTeacher(LiveTeacher(teacher, size=head_of(teacher).num_tokens))
    if "teacher" not in found:
        found["teacher"] = kept(measure(teacher, held_out, length=LENGTH))
    importance = measure_importance(teacher, learn.select(range(min(len(learn), 16))), length=LENGTH)
    shape = shape_of_share(teacher, dict(cuttable_axes(teacher)), 0.5)
    students = {"half the layers": copy_layers(teacher, (0, 3, 5)), "half in width": prune(teacher, shape, importance)}
    found |= {"learn": learn.num_tokens, "held_out": held_out.num_tokens, "documents": len(held_out)}
    students = {name: student for name, (student, _) in students.items() if wanted.student in (None, name)}
    for name, student in students.items():
        if f"{name}/untouched/0" not in found["arms"]:
            sums = kept(measure(student, held_out, length=LENGTH, teacher=beside))
            found["arms"][f"{name}/untouched/0"] = sums | {"seconds": 0.0, "shares": []}
    for seed in range(wanted.seeds):
        for name, untouched in students.items():
            for arm, added in features(untouched, teacher).items():
                key = f"{name}/{arm}/{seed}"
                if key in found["arms"]:
                    continue
                student = deepcopy(untouched).float().requires_grad_(True)
                took = learned(student, teacher, learn, arm, added, seed, wanted)
                sums = kept(measure(student, held_out, length=LENGTH, teacher=beside))
                found["arms"][key] = sums | took
                out.write_text(json.dumps(found), "utf-8")
                (HERE / "features.md").write_text(page(everything(out), wanted), "utf-8")
                mean = np.sum(sums["nll"]) / np.sum(sums["tokens"])
                print(f"{key}: {mean:.3f} nats, {took['seconds']:.0f} s, shares {took['shares']}", flush=True)
    return found


def everything(out: Path) -> dict:
    """What all students of a run have found."""
    parts = [json.loads(path.read_text("utf-8")) for path in sorted(out.parent.glob("features*.json"))]
    return parts[0] | {"arms": {key: one for part in parts for key, one in part["arms"].items()}}


def page(found: dict, wanted: argparse.Namespace) -> str:
    """What is finished: a row an arm, over all its seeds."""
    tokens = np.array(found["teacher"]["tokens"])
    draws = np.random.default_rng(0).integers(0, len(tokens), (4_000, len(tokens)))

    def interval(values: np.ndarray) -> tuple[float, float, float]:
        low, high = np.quantile(values[draws].sum(1) / tokens[draws].sum(1), (0.025, 0.975))
        return values.sum() / tokens.sum(), low, high

    by_arm: dict[tuple[str, str], list[dict]] = {}
    for key, one in found["arms"].items():
        student, arm, _ = key.split("/")
        by_arm.setdefault((student, arm), []).append(one)
    lines = []
    for student in dict.fromkeys(student for student, _ in by_arm):
        lines += [
            f"## {student[0].upper()}{student[1:]}",
            "",
            "| learns by | loss, nats | minus forward KL's | by seed | KL to teacher | seconds | share of the gradient | seeds |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        plain = by_arm.get((student, PLAIN), [])
        here = [(arm, seeds) for (name, arm), seeds in by_arm.items() if name == student]
        for arm, seeds in sorted(here, key=lambda one: np.mean([np.sum(found["nll"]) for found in one[1]])):
            nll = np.mean([one["nll"] for one in seeds], 0)
            mean, low, high = interval(nll)
            against = each = ""
            if arm not in ("untouched", PLAIN) and len(plain) >= len(seeds):
                differences = [
                    np.array(one["nll"]) - np.array(other["nll"]) for one, other in zip(seeds, plain, strict=False)
                ]
                against = "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval(np.mean(differences, 0)))
                each = ", ".join(f"{one.sum() / tokens.sum():+.4f}" for one in differences)
            kl = np.mean([np.sum(one["kl"]) for one in seeds]) / tokens.sum()
            shares = np.mean([one["shares"] for one in seeds], 0) if seeds[0]["shares"] else []
            lines.append(
                f"| {arm} | {mean:.3f} ({low:.3f} to {high:.3f}) | {against} | {each} | {kl:.3f} | "
                f"{np.mean([one['seconds'] for one in seeds]):.0f} | {', '.join(f'{share:.0%}' for share in shares)} | {len(seeds)} |"
            )
        lines.append("")
    own = np.sum(found["teacher"]["nll"]) / tokens.sum()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return "\n".join(
        [
            "# Features beside soft labels",
            "",
            f"*{date.today().isoformat()}; `benchmarks/features.py`; one of {os.cpu_count()} cores "
            f"({torch.backends.cpu.get_cpu_capability()}), float32; {packages}.*",
            f"*The pocket teacher; {found['learn']:,} tokens of the standard library read once in steps of {wanted.rows} x {LENGTH}, peak "
            f"learning rate {wanted.rate:g}; loss on {int(tokens.sum()):,} tokens of {len(tokens)} held-out documents. The teacher's own: "
            f"{own:.3f}.*",
            "",
            *lines,
            "In brackets 95 % intervals from a bootstrap over documents, of means over seeds; differences are paired by document. "
            "Seconds are of processor time. The share of the gradient is that of what is added, at the first layer's input, in steps 1, "
            f"{1 + EVERY}, {1 + 2 * EVERY} and so on.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="pocket")
    parser.add_argument("--text", default="standard-library")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--held-out", type=int, default=24_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--student", help="of the two, for a process of its own; both if left out")
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore")
    out = Path("runs") / f"features{'-' + wanted.student.replace(' ', '_') if wanted.student else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    run(wanted, out)
    print(page(everything(out), wanted))


if __name__ == "__main__":
    main()
