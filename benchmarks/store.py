"""What a store of soft labels takes and what it keeps, on SmolLM2-135M's real distributions over real text.

    make bench-setup                                    (brings SmolLM2-135M)
    .venv/bin/python benchmarks/store.py --quick        (about a minute; --json adds one JSON object as the last line)
    .venv/bin/python benchmarks/store.py                (more text; writes store.md here)

Against independent draws (RS-KD: 50 draws of the teacher's distribution, 3 bytes for each different token) and the likeliest tokens
renormalised (fp16 values, 17-bit ids). Squared error and KL are those of the stored distribution against the teacher's; bytes are of
whole files. Text: the standard library's source, where no other is given. Capture overhead is the time of labelling over the time of the
teacher's bare passes to its logits, turn by turn; decoding is timed on one thread, batches of four rows in random order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from smollm2 import smollm2
from torch import Tensor

from potstill.data import PackedBatches, TokenCorpus, read_documents, tokenize
from potstill.losses import ForwardKL, ReverseKL, SoftLabelLoss
from potstill.models import head_of, load_model, load_tokenizer
from potstill.soft_labels import Codec, Hidden, Manifest, Sampled, Store, TopK, begin_store, label
from potstill.teachers import LiveTeacher, StoredTeacher
from potstill.types import Batch, DenseTargets, SparseTargets, Teacher

HERE = Path(__file__).parent
LENGTH, DRAWS = 512, 50


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


def labelled(codec: Codec, teacher: LiveTeacher, corpus: TokenCorpus, folder: Path) -> tuple[Store, float]:
    """(the store, time of labelling over the time of the teacher's passes in it)."""
    begin_store(folder, manifest_of(codec, teacher), corpus, head_of(teacher.model))
    bare, started = Bare(teacher), time.perf_counter()
    for _ in label(bare, corpus, folder):
        pass
    return Store(folder), (time.perf_counter() - started - bare.extra) / bare.seconds


def stored(store: Store, corpus: TokenCorpus) -> StoredTeacher:
    divergence = ForwardKL() if isinstance(store.manifest.codec, Sampled) else ReverseKL()
    return StoredTeacher(store, corpus, tokenizer="", measure=SoftLabelLoss(divergence))


def fidelity(teacher: Teacher, exact: LiveTeacher, batches: PackedBatches, steps: int) -> dict[str, float]:
    """Squared error and KL of what `teacher` says, a prediction; KL is NaN where a token's stored probability is 0."""
    error, kl, count = 0.0, 0.0, 0
    for batch in itertools.islice(batches.from_step(0), steps):
        true, found = exact.label(batch), teacher.label(batch)
        for start in range(0, len(true.rows), 128):
            here = slice(start, start + 128)
            p = true.head.logits(true.rows[here]).softmax(-1)
            if isinstance(found, SparseTargets):
                q = torch.zeros_like(p).scatter_add_(1, found.ids[here].clamp_min(0), found.probs[here])
                if found.rest is not None:  # the rest as it would be shared out by one that knows nothing more
                    q = torch.where(q > 0, q, p * (found.rest[here] / (p * (q == 0)).sum(-1)).unsqueeze(-1))
            else:
                q = found.head.logits(found.rows[here]).softmax(-1)
            error += (p - q).square().sum().item()
            kl += torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum().item()
            count += len(p)
    return {"squared_error": error / count, "kl": kl / count if kl != float("inf") else float("nan")}


def others(exact: LiveTeacher, batches: PackedBatches, steps: int) -> dict[str, tuple[float, float, float]]:
    """(bytes a token, squared error, KL) of independent draws and of renormalised top-k."""
    draw, sums, count = torch.Generator().manual_seed(0), {}, 0

    def add(name: str, size: float, q: Tensor, p: Tensor) -> None:
        error = (p - q).square().sum().item()
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + size, old[1] + error)

    for batch in itertools.islice(batches.from_step(0), steps):
        true = exact.label(batch)
        for rows in true.rows.split(128):
            p = true.head.logits(rows).softmax(-1)
            ids = torch.multinomial(p, DRAWS, replacement=True, generator=draw)
            q = torch.zeros_like(p).scatter_add_(1, ids, torch.full(ids.shape, 1 / DRAWS))
            add(f"independent draws, {DRAWS}", 3.0 * (q > 0).sum().item(), q, p)
            for k in (12, 50, 128):
                values, ids = p.topk(k)
                q = torch.zeros_like(p).scatter_(1, ids, values / values.sum(-1, keepdim=True))
                add(f"top-{k} renormalised, fp16", len(p) * k * (16 + 17) / 8, q, p)
            count += len(p)
    return {name: (size / count, error / count, float("nan")) for name, (size, error) in sums.items()}


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
    tokens, steps = (8_000, 2) if arguments.quick else (16_000, 3)
    documents = itertools.islice(read_documents(arguments.text), 100)
    corpus = tokenize(documents, tokenizer)
    ends = [d for d in range(len(corpus)) if corpus.offsets[d] < tokens]
    corpus = corpus.beginnings(2 * tokens // max(len(ends), 1), ends)
    batches = PackedBatches(corpus, LENGTH, 4)
    codecs: dict[str, Codec] = {"sampled, tau 0.05": Sampled(0.05)}
    if not arguments.quick:
        codecs |= {f"sampled, tau {tau}": Sampled(tau) for tau in (0.1, 0.2)}
        codecs |= {"topk, 64": TopK(64), "hidden, 8 bits": Hidden(8)}
    table: dict[str, tuple[float, float, float]] = {}
    overhead = speed = None
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in codecs.items():
            store, ratio = labelled(codec, teacher, corpus, Path(folder) / name)
            # A table of ranks is the same for any number of tokens: of a real store it is nothing.
            size = sum(shard.num_bytes for shard in store.shards) / store.num_tokens
            found = fidelity(stored(store, corpus), teacher, batches, steps)
            table[name] = (size, found["squared_error"], found["kl"])
            if overhead is None:
                overhead, speed = ratio - 1, decode_speed(store, corpus)
            print(
                f"{name:28s} {size:8.2f} bytes/token  squared error {found['squared_error']:.5f}  KL {found['kl']:.5f}",
                flush=True,
            )
    table |= others(teacher, batches, steps)
    ours, draws = table["sampled, tau 0.05"], table[f"independent draws, {DRAWS}"]
    assert speed is not None
    assert overhead is not None
    result = {
        "bytes_per_token": round(ours[0], 2),
        "squared_error": round(ours[1], 5),
        "rskd50_squared_error": round(draws[1], 5),
        "rskd50_bytes_per_token": round(draws[0], 2),
        "decode_tokens_per_second": round(speed),
        "capture_overhead": round(overhead, 3),
    }
    if not arguments.quick:
        (HERE / "store.md").write_text(page(table, result, corpus, arguments.text), "utf-8")
    print(json.dumps(result) if arguments.json else result)


def page(table: dict[str, tuple[float, float, float]], result: dict, corpus: TokenCorpus, text: str) -> str:
    lines = [
        f"| {name} | {size:.1f} | {error:.5f} | {'' if kl != kl else f'{kl:.5f}'} |"
        for name, (size, error, kl) in table.items()
    ]
    capability = torch.backends.cpu.get_cpu_capability()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pcodec"))
    return "\n".join(
        [
            "# The soft-label store",
            "",
            f"*{date.today().isoformat()}; `benchmarks/store.py`; {os.cpu_count()} cores ({capability}); {packages}.*",
            f"*SmolLM2-135M (49,152 tokens) over {corpus.num_tokens:,} tokens of {Path(text).name}, context {LENGTH}.*",
            "",
            "| | bytes a token | squared error | KL(teacher, stored), nats |",
            "| --- | ---: | ---: | ---: |",
            *lines,
            "",
            "Squared error: Σ (stored - teacher's)² over the vocabulary, a prediction. KL is infinite for samples; top-k's rest is shared",
            "out as the teacher would.",
            "",
            f"Decoding and assembling batches: {result['decode_tokens_per_second']:,} predictions a second on one thread. Labelling takes "
            f"{result['capture_overhead']:.1%} more time than the teacher's bare passes.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
