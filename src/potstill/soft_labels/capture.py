"""From a teacher and a text to a store: labelled shard by shard, at most one pass of the teacher lost to a kill.

What is labelled is decided by what is missing. The bytes of a shard are a function of its documents and of the manifest: neither
interruptions, nor the number of processes, nor who labels which shard change them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.data import TokenCorpus
from potstill.data.packing import Windows, batch_of, best_fit, windows_of
from potstill.errors import LossError, NotFiniteError, StoreError
from potstill.soft_labels.hidden import Dense, Hidden
from potstill.soft_labels.journal import Journal, take
from potstill.soft_labels.manifest import MANIFEST, TABLES, Manifest, tokens_by_rank
from potstill.soft_labels.noise import uniforms
from potstill.soft_labels.observed import SUMS, Observed, observe
from potstill.soft_labels.planning import Planned, check_none_elsewhere, explained, plan_of, write_plan
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.shard import Documents, write_shard
from potstill.soft_labels.store import Store
from potstill.soft_labels.streams import Encoded, joined
from potstill.soft_labels.topk import TopK
from potstill.types import Batch, DenseTargets, Head, Teacher

# Rows whose logits are made at once, and of these, whose probabilities are worked on while they are in the cache.
_CHUNK, _BLOCK = 256, 32
_DRAWS = 2


Record = dict[str, NDArray]
"""What one pass of the teacher gave, as arrays: what a journal keeps."""


@dataclass(frozen=True)
class Progress:
    """How far labelling is; `sums` (SUMS in observed.py) and `bytes` are of the predictions labelled by this call so far.

    tokens   predictions labelled, those of before this call not counted
    total    predictions that were missing when it began, less those found since in the journals of calls before it
    bytes    written for them; compressed only when their shard is whole
    seconds  since it began
    """

    tokens: int
    total: int
    bytes: int
    seconds: float
    sums: NDArray[np.float64]

    @classmethod
    def at_start(cls, plan: Sequence[Planned]) -> Progress:
        """Nothing of the plan is done."""
        return cls(0, sum(shard.tokens for shard in plan), 0, 0.0, np.zeros(len(SUMS)))

    def known(self, records: Sequence[Record]) -> Progress:
        """With these records there already, from before this call."""
        return replace(self, total=self.total - _predictions(records))

    def after(self, records: Sequence[Record], seconds: float) -> Progress:
        """With these records more."""
        return Progress(
            self.tokens + _predictions(records),
            self.total,
            self.bytes + sum(_size(record) for record in records),
            seconds,
            np.sum([self.sums, *(record["sums"].sum(0) for record in records)], axis=0),
        )


@dataclass(frozen=True)
class Labeller:
    """A teacher that labels, and how its labels are kept; ranks int64 [tokens]: each token's place among the frequent ones."""

    teacher: Teacher
    manifest: Manifest
    ranks: torch.Tensor

    @classmethod
    def of(cls, teacher: Teacher, manifest: Manifest, tokens_of_rank: NDArray[np.int64]) -> Labeller:
        """From the store's own table of tokens by rank."""
        ranks = torch.empty(manifest.num_tokens, dtype=torch.int64)
        ranks[torch.from_numpy(tokens_of_rank)] = torch.arange(len(ranks))
        return cls(teacher, manifest, ranks)

    def passes(self, corpus: TokenCorpus, shard: Planned, done: int) -> Iterator[Record]:
        """What the teacher says of the shard, pass after pass, the first `done` left out."""
        part = corpus.select(shard.documents)
        windows, size = windows_of(part, self.manifest.context), self.manifest.rows
        rows = [np.array(row) for row in best_fit(windows.sizes, self.manifest.context)]
        for first in range(done * size, len(rows), size):
            batch = _pass(part, windows, rows[first : first + size])
            yield _label_pass(self.teacher, batch, self.manifest, shard.keys, self.ranks)

    def write(self, path: Path, records: Sequence[Record], shard: Planned) -> None:
        """The shard's file, from the records of all its passes. Raises OSError."""
        documents, encoded = _in_order(records, shard)
        write_shard(path, documents, encoded, page_tokens=self.manifest.page_tokens, store=self.manifest.identity)


def begin_store(folder: Path, manifest: Manifest, corpus: TokenCorpus, head: Head | None = None) -> None:
    """Make the folder a store, or see that it is this one: StoreError where it is another, or holds something else.

    `head` is the teacher's, for the tier `hidden`.
    """
    if (folder / MANIFEST).exists():
        found, _ = Manifest.load(folder)
        if (difference := found.difference(manifest)) is not None:
            raise StoreError(
                f"{folder} holds soft labels of another kind ({difference}): choose another folder (--out), or label with the same settings"
            )
        return
    # What a kill or a full disk left of a beginning is no stranger.
    begun = {TABLES, *(f"{name}.part" for name in (TABLES, MANIFEST))}
    if folder.exists() and any(one.name not in begun for one in folder.iterdir()):
        raise StoreError(f"{folder} holds something that is no store of soft labels: choose another folder (--out)")
    counts = np.bincount(corpus.ids, minlength=manifest.num_tokens)[: manifest.num_tokens]
    tables = {"tokens_of_rank": tokens_by_rank(counts)}
    if isinstance(manifest.codec, Hidden):
        assert head is not None
        weight = head.weight[: manifest.num_tokens].detach().cpu()
        # numpy has no bfloat16.
        tables["head_weight"] = (weight.float() if weight.dtype == torch.bfloat16 else weight).numpy()
        if head.bias is not None:
            tables["head_bias"] = head.bias[: manifest.num_tokens].detach().float().cpu().numpy()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        manifest.save(folder, tables)


def label(teacher: Teacher, corpus: TokenCorpus, folder: Path, *, is_one_of_many: bool = False) -> Iterator[Progress]:
    """Label what the store at `folder` (see `begin_store`) has not got of the corpus, with a word after each pass of the teacher.

    Several processes may do it at once, on one machine: each shard is labelled by the one that takes it first. StoreError where
    another still works when this one is done (unless this is one of many that wait for each other), and where the disk is full.
    """
    store = Store(folder)
    plan = plan_of(corpus, store)
    with explained(folder):
        write_plan(folder, [shard.path.name for shard in store.shards], plan)
    started, done = time.perf_counter(), Progress.at_start(plan)
    labeller = Labeller.of(teacher, store.manifest, store.tokens_of_rank)
    for shard in plan:
        path = folder / shard.name
        with explained(folder):
            if (journal := take(path)) is None:
                continue
            with journal:
                records = list(journal.replay())
                yield (done := done.known(records))
                for record in _label_shard(labeller, corpus, shard, journal, path, records):
                    yield (done := done.after([record], time.perf_counter() - started))
    if not is_one_of_many:
        check_none_elsewhere(folder, plan)


def _label_shard(
    labeller: Labeller, corpus: TokenCorpus, shard: Planned, journal: Journal, path: Path, known: Sequence[Record]
) -> Iterator[Record]:
    """The records of each pass that is not known."""
    records = list(known)
    for record in labeller.passes(corpus, shard, len(records)):
        journal.append(record)
        records.append(record)
        yield record
    labeller.write(path, records, shard)
    journal.delete()


def _pass(corpus: TokenCorpus, windows: Windows, rows: list[NDArray[np.int64]]) -> Batch:
    return batch_of(corpus, windows, rows, max(int(windows.sizes[row].sum()) for row in rows))


def _label_pass(
    teacher: Teacher, batch: Batch, manifest: Manifest, keys: NDArray[np.uint8], ranks: torch.Tensor
) -> Record:
    targets = teacher.label(batch)
    if not isinstance(targets, DenseTargets):
        raise LossError("only a teacher that gives its whole distribution can be stored: label with a live one")
    documents, offsets = (field[batch.counted].numpy() for field in (batch.documents, batch.offsets))
    noise = uniforms(manifest.seed, keys[documents, :8].copy().view("<u8").ravel(), offsets, _DRAWS)
    encoded, sums = encode(targets, batch.targets[batch.counted], manifest, torch.from_numpy(noise), ranks)
    arrays = {f"array/{name}": array for name, array in encoded.arrays.items()}
    arrays |= {f"count/{name}": counts.astype(np.uint32) for name, counts in encoded.counts.items()}
    return arrays | {"document": documents, "offset": offsets, "sums": sums}


def encode(
    targets: DenseTargets, tokens: torch.Tensor, manifest: Manifest, noise: torch.Tensor, ranks: torch.Tensor
) -> tuple[Encoded, NDArray[np.float64]]:
    """(labels, [predictions, 4] of SUMS). Logits exist for a chunk at a time; tokens, noise: of each prediction."""
    head = replace(targets.head, size=manifest.num_tokens)
    device = targets.rows.device
    ranks, tokens, noise = (tensor.to(device) for tensor in (ranks, tokens, noise))
    parts, sums = [], []
    for start in range(0, len(targets.rows), _CHUNK):
        rows = targets.rows[start : start + _CHUNK]
        logits = head.logits(rows)
        size = _BLOCK if device.type == "cpu" else _CHUNK
        for first in range(0, len(rows), size):
            here = slice(start + first, min(start + first + size, start + len(rows)))
            block = slice(first, first + size)
            seen, seen_sums = observe(logits[block], rows[block], tokens[here])
            _check_is_finite(seen_sums)
            parts.append(_encode(seen, manifest, noise[here], ranks))
            sums.append(seen_sums)
    return joined(parts), np.concatenate(sums)


def _encode(seen: Observed, manifest: Manifest, noise: torch.Tensor, ranks: torch.Tensor) -> Encoded:
    match manifest.codec:
        case Sampled() as codec:
            return codec.encode(seen.probs_at(manifest.temperature), noise, ranks)
        case TopK() as codec:
            return codec.encode(seen, ranks)
        case Hidden() | Dense() as codec:
            return codec.encode(seen)


def _check_is_finite(sums: NDArray[np.float64]) -> None:
    """NotFiniteError for labels that are no numbers: the probability that two draws are the same is finite for any others."""
    if not np.isfinite(sums[:, SUMS.index("collision")]).all():
        raise NotFiniteError(
            "the teacher's predictions are NaN or infinite on some of the text: its weights are damaged, or its dtype is too small for it "
            "(float32 and bfloat16 are not). What was labelled before is kept"
        )


def _in_order(records: Sequence[Record], shard: Planned) -> tuple[Documents, Encoded]:
    """Passes read windows as they fit together; a shard has documents from their first prediction to their last."""
    # Sorted: a record that comes from the journal has its streams in an order of its own.
    names = sorted(name.removeprefix("array/") for name in records[0] if name.startswith("array/"))
    encoded = joined(
        [
            Encoded(
                {name: record[f"array/{name}"] for name in names},
                {name: record[f"count/{name}"].astype(np.int64) for name in names},
            )
            for record in records
        ]
    )
    documents, offsets, sums = (np.concatenate([r[name] for r in records]) for name in ("document", "offset", "sums"))
    order = np.lexsort((offsets, documents))
    found = np.bincount(documents, minlength=len(shard.keys))
    if not np.array_equal(found, shard.counts):
        raise AssertionError("a shard must have exactly the predictions that were planned")
    by_document = np.add.reduceat(sums[order], np.cumsum(found) - found)
    return Documents(shard.keys, found.astype(np.uint32), by_document), encoded.take(order)


def _predictions(records: Sequence[Record]) -> int:
    return sum(len(record["offset"]) for record in records)


def _size(record: Record) -> int:
    return sum(array.nbytes for name, array in record.items() if name.startswith("array/"))
