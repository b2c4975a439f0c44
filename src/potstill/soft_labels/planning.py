"""Which documents of a text have no labels yet, in which shards they will be; for whoever labels them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.data import TokenCorpus
from potstill.data.packing import windows_of
from potstill.errors import StoreError
from potstill.soft_labels.store import PLAN, SUFFIX, Store, document_keys


@dataclass(frozen=True)
class Planned:
    """A shard to be: its documents in the corpus, their keys, and the predictions to label in each."""

    documents: NDArray[np.int64]
    keys: NDArray[np.uint8]
    counts: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Of its file: of what is in it."""
        return hashlib.blake2b(self.keys.tobytes(), digest_size=12).hexdigest() + SUFFIX

    @property
    def tokens(self) -> int:
        """Predictions to label."""
        return int(self.counts.sum())


def plan_of(corpus: TokenCorpus, store: Store) -> list[Planned]:
    """The documents without labels, in order, cut where a shard is full: the same cuts whatever was done before."""
    keys = document_keys(corpus.ids, corpus.weights, corpus.offsets)
    counts = labelled_counts(corpus, store.manifest.context)
    seen, wanted = set(), []
    has = store.has(keys)
    for document in np.flatnonzero((counts > 0) & ~has).tolist():
        if (key := keys[document].tobytes()) not in seen:
            seen.add(key)
            wanted.append(document)
    chosen = np.array(wanted, dtype=np.int64)
    shards, start, filled = [], 0, 0
    for number, size in enumerate(counts[chosen].tolist()):
        filled += size
        if filled >= store.manifest.shard_tokens or number == len(chosen) - 1:
            here = chosen[start : number + 1]
            shards.append(Planned(here, keys[here], counts[here]))
            start, filled = number + 1, 0
    return shards


def labelled_counts(corpus: TokenCorpus, context: int) -> NDArray[np.int64]:
    """How many predictions of each document a teacher with this context labels: of a prompt with its answer, those in the first
    `context`; of other texts, all that count."""
    windows = windows_of(corpus, context)
    before = np.concatenate([[0], np.cumsum(corpus.weights > 0)])
    firsts = corpus.offsets[windows.documents] + windows.starts + 1
    counts = before[firsts + windows.sizes] - before[firsts]
    return np.bincount(windows.documents, weights=counts, minlength=len(corpus)).astype(np.int64)


def write_plan(folder: Path, present: list[str], plan: list[Planned]) -> None:
    """Say in the store which files it is to have, so that one that is missing is noticed."""
    part = folder / f"{PLAN}.{os.getpid()}.part"  # each process its own: several may say the same at once
    part.write_text(json.dumps({"shards": sorted({*present, *(shard.name for shard in plan)})}, indent=1), "utf-8")
    part.replace(folder / PLAN)


def check_none_elsewhere(folder: Path, plan: list[Planned]) -> None:
    """StoreError where shards are still missing when this process has nothing left to do: another has taken them."""
    if missing := sum(not (folder / shard.name).exists() for shard in plan):
        raise StoreError(
            f"another process is labelling {missing} shards of {folder} at this moment: wait for it, then start again to see that "
            "all is there"
        )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """StoreError for a disk that is full or can't be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"can't write to {folder}: {error.strerror or error}. Free some space, then start again: what was labelled is kept"
        ) from error
