"""The same student from labels of each kind: the demo's teacher marks, half of its layers learn; same text, same steps, same seeds.

    .venv/bin/python benchmarks/store_students.py           (about 25 minutes on 2 cores; resumes; writes store_students.md here)

Text: the standard library's source. The live teacher gives the full forward KL; `sampled` labels come from potstill's store; RS-KD
(independent draws), top-k renormalised and DistillKit's recommended layout (our own implementation of what its README describes) are
made from the live teacher's distribution as a store of each kind would give it back. Hard labels are the control. A seed decides the
order of the text and, where labels are drawn, the draws. Loss: nats a token on held-out documents; differences are paired by document
and seed, with the interval of a bootstrap over documents.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from label_kinds import Sparse, distillkit, independent_draws, renormalised
from store import manifest_of

from potstill.data import PackedBatches, TokenCorpus, read_documents, tokenize
from potstill.evaluation import measure
from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.models import head_of, load_model, load_tokenizer
from potstill.soft_labels import Sampled, Store, begin_store, label
from potstill.students import copy_layers, evenly_spaced
from potstill.teachers import LiveTeacher, StoredTeacher
from potstill.training import Cosine, TrainingSettings, train
from potstill.types import Batch, SparseTargets, Teacher

HERE = Path(__file__).parent
LAYERS, LENGTH = (3, 6), 512
ONLINE, HARD = "full distribution, live", "hard labels"


class Kept:
    """A live teacher's distribution as a store of some kind gives it back; counts the bytes."""

    def __init__(self, teacher: LiveTeacher, kind: Sparse, seed: int) -> None:
        self.teacher, self.kind, self.num_tokens = teacher, kind, teacher.num_tokens
        self.draw = torch.Generator().manual_seed(seed)
        self.bytes, self.predictions = 0.0, 0

    def label(self, batch: Batch) -> SparseTargets:
        targets = self.teacher.label(batch)
        parts = [self.kind(targets.head.logits(rows).log_softmax(-1), self.draw) for rows in targets.rows.split(128)]
        self.bytes += sum(size for _, _, size in parts)
        self.predictions += len(targets.rows)
        return SparseTargets(torch.cat([ids for ids, _, _ in parts]), torch.cat([probs for _, probs, _ in parts]), None)


KINDS: dict[str, Sparse | Sampled | None] = {
    ONLINE: None,
    HARD: None,
    "sampled, tau 0.07": Sampled(0.07),
    "sampled, tau 0.2": Sampled(0.2),
    "independent draws, 13": independent_draws(13),
    "top-12 renormalised": renormalised(12),
    "DistillKit's layout, k 128": distillkit(),
}

FIRST = (ONLINE, HARD, "sampled, tau 0.07")
LATER = tuple(kind for kind in KINDS if kind not in FIRST)


def corpora(tokens: int, held_out: int) -> tuple[TokenCorpus, TokenCorpus]:
    """(to learn from, held out): beginnings of documents, so that both have many of them."""
    tokenizer = load_tokenizer("pocket")
    documents = read_documents("standard-library")
    corpus = tokenize(documents, tokenizer)
    found = []
    for split, most in (("train", tokens), ("held_out", held_out)):
        part = corpus.part(split, held_out=0.10, search=0.05)
        part = part.beginnings(2 * LENGTH if split == "train" else LENGTH, range(len(part)))
        found.append(part.select([d for d in range(len(part)) if part.offsets[d] < most]))
    return found[0], found[1]


def student_of(
    kind: str, seed: int, teacher: LiveTeacher, learn: TokenCorpus, arguments: argparse.Namespace, work: Path
) -> tuple[torch.nn.Module, float]:
    """(trained student, bytes a prediction)."""
    student, _ = copy_layers(teacher.model, evenly_spaced(LAYERS[1], LAYERS[0]))
    student.requires_grad_(True)
    measure_of, marker, size = SoftLabelLoss(ForwardKL()), None, 0.0
    match KINDS[kind]:
        case Sampled() as codec:
            folder = work / f"{kind}, seed {seed}"
            manifest = manifest_of(codec, teacher, seed=seed)
            begin_store(folder, manifest, learn, head_of(teacher.model))
            for _ in label(teacher, learn, folder):
                pass
            store = Store(folder)
            size = sum(shard.num_bytes for shard in store.shards) / store.num_tokens
            marker: Teacher | None = StoredTeacher(store, learn, tokenizer="", measure=measure_of)
        case None if kind == HARD:
            measure_of = SoftLabelLoss(ForwardKL(), alpha=0.0)
        case None:
            marker, size = teacher, 2.0 * teacher.num_tokens
        case kept:
            marker = Kept(teacher, kept, seed)
    steps, rate = arguments.steps, arguments.rate
    settings = TrainingSettings(steps=steps, learning_rate=rate, schedule=Cosine(warmup=0.05), seed=seed)
    for step in train(student, marker, PackedBatches(learn, LENGTH, arguments.rows, seed=seed), measure_of, settings):
        if step.index % 16 == 0:
            print(f"  {kind}, seed {seed}: step {step.index} of {steps}, loss {step.loss:.3f}", flush=True)
    if isinstance(marker, Kept):
        size = marker.bytes / marker.predictions
    return student, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=79)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--first", action="store_true", help="only the live teacher, hard labels and one tau")
    parser.add_argument("--page", type=Path, default=HERE / "store_students.md")
    parser.add_argument("--out", type=Path, default=Path("runs") / "store_students.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    model = load_model("pocket")
    teacher = LiveTeacher(model, size=head_of(model).num_tokens)
    learn, held_out = corpora(arguments.steps * LENGTH * arguments.rows, 30_000)
    found = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if "teacher" not in found:
        sums = measure(teacher.model, held_out, length=LENGTH)
        found["teacher"] = {"nll": sums.nll.tolist(), "tokens": sums.tokens.tolist()}
    with tempfile.TemporaryDirectory() as work:
        kinds = [
            (kind, seed)
            for some in ((FIRST,) if arguments.first else (FIRST, LATER))
            for seed in range(arguments.seeds)
            for kind in some
        ]
        for kind, seed in kinds:
            if (name := f"{kind}/{seed}") in found:
                continue
            student, size = student_of(kind, seed, teacher, learn, arguments, Path(work))
            sums = measure(student, held_out, length=LENGTH)
            found[name] = {"nll": sums.nll.tolist(), "bytes": size}
            arguments.out.write_text(json.dumps(found), "utf-8")
            mean = sums.nll.sum() / sums.tokens.sum()
            print(f"{name}: {mean:.4f} nats a token, {size:.1f} bytes a prediction", flush=True)
            if all(f"{kind}/{seed}" in found for kind in FIRST for seed in range(arguments.seeds)):
                arguments.page.write_text(page(found, learn, held_out, arguments), "utf-8")


def page(found: dict, learn: TokenCorpus, held_out: TokenCorpus, arguments: argparse.Namespace) -> str:
    tokens, seeds = np.array(found["teacher"]["tokens"]), range(arguments.seeds)
    whole = [kind for kind in KINDS if all(f"{kind}/{seed}" in found for seed in seeds)]
    of = {kind: np.array([found[f"{kind}/{seed}"]["nll"] for seed in seeds]) for kind in whole}
    gap = (of[HARD] - of[ONLINE]).sum() / len(seeds) / tokens.sum()
    draws = np.random.default_rng(0).integers(0, len(tokens), (10_000, len(tokens)))

    def paired(kind: str, other: str) -> str:
        difference = (of[kind] - of[other]).mean(0)
        mean = difference.sum() / tokens.sum()
        low, high = np.quantile(difference[draws].sum(1) / tokens[draws].sum(1), (0.025, 0.975))
        return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if kind != other else ""

    rows = []
    for kind in sorted(whole, key=lambda kind: of[kind].sum()):
        losses = of[kind].sum(1) / tokens.sum()
        size = np.mean([found[f"{kind}/{seed}"]["bytes"] for seed in seeds])
        share = (of[HARD] - of[kind]).sum() / len(seeds) / tokens.sum() / gap
        spread = f"{losses.min():.4f} to {losses.max():.4f}"
        rows.append(
            f"| {kind} | {size:,.1f} | {losses.mean():.4f} ({spread}) | {paired(kind, ONLINE)} | {paired(kind, HARD)} | "
            f"{share:.0%} |"
        )
    own = np.array(found["teacher"]["nll"]).sum() / tokens.sum()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pcodec"))
    return "\n".join(
        [
            "# A student from labels of each kind",
            "",
            f"*{date.today().isoformat()}; `benchmarks/store_students.py`; {os.cpu_count()} cores "
            f"({torch.backends.cpu.get_cpu_capability()}), float32; {packages}.*",
            f"*The pocket teacher (4,096 tokens) into {LAYERS[0]} of its {LAYERS[1]} layers, {arguments.steps} steps of",
            f"{arguments.rows} x {LENGTH} tokens of the standard library ({learn.num_tokens:,} tokens), {arguments.seeds} seeds;",
            f"loss on {int(tokens.sum()):,} tokens of {len(tokens)} held-out files (the teacher's: {own:.4f}).*",
            "",
            "| labels | bytes a token | loss, nats (seeds) | minus the live teacher's | minus hard labels' | share of the gap |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "In brackets behind differences: 95 % intervals, bootstrap over documents of the differences' mean over seeds. The gap is from",
            "hard labels to the live teacher's full distribution.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
