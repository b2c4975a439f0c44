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
from potstill.soft_labels.journal import Journal
from potstill.soft_labels.manifest import MANIFEST, TABLES, Manifest, tokens_by_rank
from potstill.soft_labels.noise import uniforms
from potstill.soft_labels.observed import SUMS, Observed, observe
from potstill.soft_labels.planning import Planned, explained, plan_of, write_plan
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.shard import Documents, write_shard
from potstill.soft_labels.store import Store
from potstill.soft_labels.streams import Encoded, joined
from potstill.soft_labels.topk import TopK
from potstill.types import Batch, DenseTargets, Head, Teacher

# Rows whose logits are made at once, and of these, whose probabilities are worked on while they are in the cache.
_CHUNK, _BLOCK = 256, 32
_DRAWS = 2


@dataclass(frozen=True)
class Progress:
    """How far labelling is; `sums` (SUMS in observed.py) and `bytes` are of the predictions labelled by this process so far.

    tokens   predictions labelled, those of before this call not counted
    total    predictions that were missing when it began
    bytes    written for them; compressed only when their shard is whole
    seconds  since it began
    """

    tokens: int
    total: int
    bytes: int
    seconds: float
    sums: NDArray[np.float64]


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
    started, done = time.perf_counter(), Progress(0, sum(shard.tokens for shard in plan), 0, 0.0, np.zeros(len(SUMS)))
    ranks = torch.empty(store.manifest.num_tokens, dtype=torch.int64)
    ranks[torch.from_numpy(store.tokens_of_rank)] = torch.arange(len(ranks))
    elsewhere = 0
    for shard in plan:
        path = folder / shard.name
        if path.exists():
            continue
        with explained(folder), Journal(path.with_suffix(".journal")) as journal:
            # Looked at again with the lock in hand: another process may just have finished it.
            if not journal.is_mine or path.exists():
                elsewhere += not path.exists()
                if journal.is_mine:
                    journal.delete()
                continue
            for sums, tokens, size in _label_shard(teacher, corpus, store.manifest, shard, journal, ranks, path):
                seconds = time.perf_counter() - started
                done = Progress(done.tokens + tokens, done.total, done.bytes + size, seconds, done.sums + sums)
                yield done
    if elsewhere and not is_one_of_many and any(not (folder / shard.name).exists() for shard in plan):
        raise StoreError(
            f"another process is labelling {elsewhere} shards of {folder} at this moment: wait for it, then start again to see that "
            "all is there"
        )


def _label_shard(
    teacher: Teacher,
    corpus: TokenCorpus,
    manifest: Manifest,
    shard: Planned,
    journal: Journal,
    ranks: torch.Tensor,
    path: Path,
) -> Iterator[tuple[NDArray[np.float64], int, int]]:
    """(sums, predictions, bytes) of each pass, those in the journal first and at once."""
    part = corpus.select(shard.documents)
    windows = windows_of(part, manifest.context)
    rows = [np.array(row) for row in best_fit(windows.sizes, manifest.context)]
    records = list(journal.replay())
    yield _sums_of(records), sum(len(record["offset"]) for record in records), sum(_size(record) for record in records)
    for first in range(len(records) * manifest.rows, len(rows), manifest.rows):
        batch = _pass(part, windows, rows[first : first + manifest.rows])
        record = _label_pass(teacher, batch, manifest, shard.keys, ranks)
        journal.append(record)
        records.append(record)
        yield _sums_of([record]), len(record["offset"]), _size(record)
    write_shard(path, *_in_order(records, shard), page_tokens=manifest.page_tokens, store=manifest.identity)
    journal.delete()


def _pass(corpus: TokenCorpus, windows: Windows, rows: list[NDArray[np.int64]]) -> Batch:
    return batch_of(corpus, windows, rows, max(int(windows.sizes[row].sum()) for row in rows))


def _label_pass(
    teacher: Teacher, batch: Batch, manifest: Manifest, keys: NDArray[np.uint8], ranks: torch.Tensor
) -> dict[str, NDArray]:
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


def _in_order(records: Sequence[dict[str, NDArray]], shard: Planned) -> tuple[Documents, Encoded]:
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


def _sums_of(records: Sequence[dict[str, NDArray]]) -> NDArray[np.float64]:
    return np.sum([np.zeros(len(SUMS)), *(record["sums"].sum(0) for record in records)], axis=0)


def _size(record: dict[str, NDArray]) -> int:
    return sum(array.nbytes for name, array in record.items() if name.startswith("array/"))
