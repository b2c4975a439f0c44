"""What a store of soft labels takes and what it keeps, on SmolLM2-135M's real distributions over real text.

    make bench-setup                                    (brings SmolLM2-135M)
    .venv/bin/python benchmarks/store.py --quick        (about three minutes; --json adds one JSON object as the last line)
    .venv/bin/python benchmarks/store.py                (about ten minutes; more text and kinds; writes store.md here)

Against independent draws (RS-KD: 3 bytes for each different token), the likeliest tokens renormalised (fp16 values, 16-bit ids) and
DistillKit's recommended layout (our own implementation of its description). Squared error and KL are those of the stored distribution
against the teacher's; the angle is that of the gradient at the head's weight, for a student that is the teacher with 12 % noise on its
weights, against the full distribution's, over all predictions looked at (what is noise in it falls with more of them, what is bias
stays). Bytes are of whole files. Text: the standard library's source, where no other is given. Capture overhead is the time of labelling
over the time of the teacher's bare passes to its logits, turn by turn; decoding is timed on one thread, batches of four rows in random
order. Training from the store is timed against the same labels in memory, step about.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from label_kinds import Sparse, distillkit, independent_draws, renormalised
from smollm2 import smollm2
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data import PackedBatches, TokenCorpus, read_documents, tokenize
from potstill.losses import ForwardKL, ReverseKL, SoftLabelLoss
from potstill.models import head_of, hidden_states, load_model, load_tokenizer
from potstill.soft_labels import Codec, Hidden, Manifest, Sampled, Store, TopK, begin_store, label
from potstill.students import copy_layers, evenly_spaced
from potstill.teachers import LiveTeacher, RememberingTeacher, StoredTeacher
from potstill.training import TrainingSettings, train
from potstill.types import Batch, DenseTargets, SoftTargets, SparseTargets, Teacher

HERE = Path(__file__).parent
LENGTH = 512
BEGAN = time.perf_counter()
OURS, DRAWS = "sampled, tau 0.05", "independent draws, 50"


class Bare:
    """The teacher's passes timed: to its logits, a chunk at a time. Those logits are made for the clock, and thrown away (`extra`)."""

    def __init__(self, teacher: LiveTeacher) -> None:
        self.teacher, self.num_tokens, self.seconds, self.extra = teacher, teacher.num_tokens, 0.0, 0.0

    def label(self, batch: Batch) -> DenseTargets:
        """What the teacher says; the clock runs."""
        started = time.perf_counter()
        targets = self.teacher.label(batch)
        middle = time.perf_counter()
        for rows in targets.rows.split(256):
            targets.head.logits(rows)
        self.extra += time.perf_counter() - middle
        self.seconds += time.perf_counter() - started
        return targets


def manifest_of(codec: Codec, teacher: LiveTeacher, seed: int = 0) -> Manifest:
    head = head_of(teacher.model)
    names = {"name": "SmolLM2-135M", "fingerprint": "", "dtype": "float32"}
    of_head = {"scale": head.scale, "softcap": head.softcap}
    return Manifest(codec, teacher.num_tokens, "", names, LENGTH, seed=seed, rows=4, head=of_head)


def labelled(
    codec: Codec, marker: Bare | RememberingTeacher, teacher: LiveTeacher, corpus: TokenCorpus, folder: Path
) -> tuple[Store, float]:
    """(the store, time of labelling over the time of the teacher's passes in it: NaN where those weren't timed)."""
    begin_store(folder, manifest_of(codec, teacher), corpus, head_of(teacher.model))
    started = time.perf_counter()
    for _ in label(marker, corpus, folder):
        pass
    seconds = time.perf_counter() - started
    return Store(folder), (seconds - marker.extra) / marker.seconds if isinstance(marker, Bare) else math.nan


def said(what: str) -> None:
    """Where the benchmark is, on stderr."""
    print(f"{time.perf_counter() - BEGAN:6.0f} s  {what}", file=sys.stderr, flush=True)


def stored(store: Store, corpus: TokenCorpus) -> StoredTeacher:
    divergence = ForwardKL() if isinstance(store.manifest.codec, Sampled) else ReverseKL()
    return StoredTeacher(store, corpus, tokenizer="", measure=SoftLabelLoss(divergence))


@dataclass
class Found:
    """Sums over predictions: of bytes, squared errors, KL; and the gradient at the head's weight."""

    bytes: float = 0.0
    error: float = 0.0
    kl: float = 0.0
    gradient: Tensor | float = 0.0


def dense(found: SparseTargets | DenseTargets, here: slice, p: Tensor) -> Tensor:
    """Stored probabilities of all tokens; a rest is shared out as the teacher would."""
    if isinstance(found, DenseTargets):
        return found.head.logits(found.rows[here]).softmax(-1)
    q = torch.zeros_like(p).scatter_add_(1, found.ids[here].clamp_min(0), found.probs[here])
    if found.rest is not None:
        q = torch.where(q > 0, q, p * (found.rest[here] / (p * (q == 0)).sum(-1)).unsqueeze(-1))
    return q


def fidelity(
    stores: dict[str, Teacher], kinds: dict[str, Sparse], exact: LiveTeacher, batches: PackedBatches, steps: int
) -> tuple[dict[str, Found], int]:
    """(what each store and each kind keeps, predictions looked at)."""
    noisy = noisy_copy(exact.model)
    sums: dict[str, Found] = {"student": Found(), "full": Found()}
    count, draw = 0, torch.Generator().manual_seed(0)
    for batch in itertools.islice(batches.from_step(0), steps):
        true, labels = exact.label(batch), {name: teacher.label(batch) for name, teacher in stores.items()}
        with torch.no_grad():
            student = hidden_states(noisy, batch)
        for start in range(0, len(true.rows), 128):
            here = slice(start, start + 128)
            logprobs = true.head.logits(true.rows[here]).log_softmax(-1)
            p, rows = logprobs.exp(), student.rows[here]
            student_q = student.head.logits(rows)[:, : p.shape[1]].softmax(-1)
            sums["student"].gradient = sums["student"].gradient + student_q.T @ rows
            stored = {name: dense(found, here, p) for name, found in labels.items()} | {"full": p}
            for name, kind in kinds.items():
                ids, probs, size = kind(logprobs, draw)
                stored[name] = torch.zeros_like(p).scatter_add_(1, ids, probs)
                sums.setdefault(name, Found()).bytes += size
            for name, q in stored.items():
                one = sums.setdefault(name, Found())
                one.error += (p - q).square().sum().item()
                one.kl += torch.where(p > 0, p * (logprobs - q.log()), 0.0).sum().item()
                one.gradient = one.gradient - (q.T @ rows if (q > 0).sum() > q.numel() / 20 else q.T.to_sparse() @ rows)
            count += len(p)
    students = sums.pop("student").gradient
    for one in sums.values():
        one.gradient = students + one.gradient
    return sums, count


def noisy_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model with noise on its matrices, 12 % of their size."""
    noisy, draw = deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in noisy.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn(weight.shape, generator=draw), alpha=0.12 * weight.std().item())
    return noisy


def angle(found: Found, full: Found) -> tuple[float, float]:
    """(degrees between the gradients, the length of the first over that of the second)."""
    assert isinstance(found.gradient, Tensor)
    assert isinstance(full.gradient, Tensor)
    one, other = found.gradient.double(), full.gradient.double()
    cosine = ((one * other).sum() / (one.norm() * other.norm())).clamp(-1, 1).item()
    return math.degrees(math.acos(cosine)), (one.norm() / other.norm()).item()


class InMemory:
    """Labels of some batches, made beforehand."""

    def __init__(self, teacher: StoredTeacher, batches: PackedBatches, steps: int) -> None:
        self.num_tokens = teacher.num_tokens
        some = itertools.islice(batches.from_step(0), steps)
        self._labels = {batch.inputs.numpy().tobytes(): teacher.label(batch) for batch in some}

    def label(self, batch: Batch) -> SoftTargets:
        """From memory."""
        return self._labels[batch.inputs.numpy().tobytes()]


def training_speed(teacher: StoredTeacher, exact: LiveTeacher, corpus: TokenCorpus, steps: int) -> float:
    """Steps a second from the store over those from memory: medians of steps taken in turn, the first one not counted."""
    batches = PackedBatches(corpus, LENGTH // 2, 2)
    settings = TrainingSettings(steps=steps)
    runs = []
    for marker in (teacher, InMemory(teacher, batches, steps)):
        student, _ = copy_layers(exact.model, evenly_spaced(30, 6))
        student.requires_grad_(True)
        runs.append(train(student, marker, batches, SoftLabelLoss(ForwardKL()), settings))
    seconds = [[next(run).seconds for run in runs] for _ in range(steps)][1:]
    stored, memory = (statistics.median(one) for one in zip(*seconds, strict=True))
    return memory / stored


def decode_speed(store: Store, corpus: TokenCorpus) -> float:
    """Predictions a second, on one thread; the best of three passes over batches in random order."""
    teacher, threads, best = stored(store, corpus), torch.get_num_threads(), 0.0
    batches = PackedBatches(corpus, LENGTH, 4, seed=1)
    chosen = list(itertools.islice(batches.from_step(0), 40))
    torch.set_num_threads(1)
    for _ in range(3):
        started = time.perf_counter()
        count = sum(len(teacher.label(batch).ids) for batch in chosen)
        best = max(best, count / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--text", default="standard-library")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    tokenizer = load_tokenizer(smollm2())
    teacher = LiveTeacher(load_model(smollm2()), size=len(tokenizer))
    tokens, steps = (8_000, 1) if arguments.quick else (16_000, 4)
    documents = itertools.islice(read_documents(arguments.text), 100)
    corpus = tokenize(documents, tokenizer)
    ends = [d for d in range(len(corpus)) if corpus.offsets[d] < tokens]
    corpus = corpus.beginnings(2 * tokens // max(len(ends), 1), ends)
    batches = PackedBatches(corpus, LENGTH, 4)
    codecs: dict[str, Codec] = {OURS: Sampled(0.05)}
    kinds: dict[str, Sparse] = {DRAWS: independent_draws(50)}
    if not arguments.quick:
        codecs |= {f"sampled, tau {tau}": Sampled(tau) for tau in (0.02, 0.1, 0.2)}
        codecs |= {"topk, 64": TopK(64), "hidden, 8 bits": Hidden(8), "hidden, 6 bits": Hidden(6)}
        kinds |= {f"independent draws, {draws}": independent_draws(draws) for draws in (13, 150)}
        kinds |= {f"top-{k} renormalised, fp16": renormalised(k) for k in (12, 50, 128)}
        kinds["DistillKit's layout, k 128"] = distillkit()
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, StoredTeacher] = {}
        ratios, sizes = {}, {}
        remembered = RememberingTeacher(teacher)  # one pass for all stores but the first, which is timed
        for name, codec in codecs.items():
            marker = Bare(teacher) if name == OURS else remembered
            store, ratios[name] = labelled(codec, marker, teacher, corpus, Path(folder) / name)
            said(f"{name}: labelled")
            # A table of ranks is the same for any number of tokens: of a real store it is nothing.
            sizes[name] = sum(shard.num_bytes for shard in store.shards) / store.num_tokens
            stores[name] = stored(store, corpus)
        speed = decode_speed(stores[OURS].store, corpus)
        said("decoding timed")
        training = training_speed(stores[OURS], teacher, corpus, 6 if arguments.quick else 16)
        said("training timed")
        sums, count = fidelity(dict(stores), kinds, teacher, batches, steps)
    sizes |= {name: sums[name].bytes / count for name in kinds}
    result = {
        "bytes_per_token": round(sizes[OURS], 2),
        "squared_error": round(sums[OURS].error / count, 5),
        "rskd50_squared_error": round(sums[DRAWS].error / count, 5),
        "rskd50_bytes_per_token": round(sizes[DRAWS], 2),
        "decode_tokens_per_second": round(speed),
        "capture_overhead": round(ratios[OURS] - 1, 3),
        "training_from_store": round(training, 3),
    }
    if not arguments.quick:
        (HERE / "store.md").write_text(page(sums, sizes, result, corpus, arguments.text, count), "utf-8")
    print(json.dumps(result) if arguments.json else result)


def page(
    sums: dict[str, Found], sizes: dict[str, float], result: dict, corpus: TokenCorpus, text: str, count: int
) -> str:
    lines = []
    for name, size in sizes.items():
        found, (degrees, length) = sums[name], angle(sums[name], sums["full"])
        kl = "" if math.isinf(found.kl) else f"{found.kl / count:.5f}"
        lines.append(f"| {name} | {size:.1f} | {found.error / count:.5f} | {kl} | {degrees:.1f} | {length:.2f} |")
    capability = torch.backends.cpu.get_cpu_capability()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pcodec"))
    return "\n".join(
        [
            "# The soft-label store",
            "",
            f"*{date.today().isoformat()}; `benchmarks/store.py`; {os.cpu_count()} cores ({capability}); {packages}.*",
            f"*SmolLM2-135M (49,152 tokens) over {corpus.num_tokens:,} tokens of {Path(text).name}, context {LENGTH};",
            f"fidelity over {count:,} predictions.*",
            "",
            "| | bytes a token | squared error | KL(teacher, stored), nats | gradient's angle, degrees | its length |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *lines,
            "",
            "Squared error: Σ (stored - teacher's)² over the vocabulary, a prediction. KL is infinite where a token's stored probability",
            "is 0; our top-k's rest is shared out as the teacher would. Angle and length are of the gradient at the head's weight, against",
            f"that of the full distribution, over {count:,} predictions: what is noise in it (samples, draws) halves with four times as",
            "many, what is bias (top-k, DistillKit's layout) stays.",
            "",
            f"Decoding and assembling batches: {result['decode_tokens_per_second']:,} predictions a second on one thread. Labelling takes "
            f"{result['capture_overhead']:.1%} more time than the teacher's bare passes. Training from the store runs at "
            f"{result['training_from_store']:.3f} of its speed with the same labels in memory. What students make of such labels: "
            "[store_students.md](store_students.md).",
            "",
        ]
    )


if __name__ == "__main__":
    main()
