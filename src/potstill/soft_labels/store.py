"""A store to read from: labels of any span of any document, by the document's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.errors import StoreError
from potstill.soft_labels.hidden import Dense, Hidden
from potstill.soft_labels.manifest import Manifest
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.shard import Shard
from potstill.soft_labels.streams import Ragged
from potstill.soft_labels.topk import TopK
from potstill.types import DenseTargets, Head, SparseTargets

SUFFIX, PLAN = ".labels", "plan.json"
_CACHED_PAGES = 256


@dataclass(frozen=True)
class Places:
    """Where the labels of documents lie: shard (-1 = nowhere), first prediction in it, and how many; int64 [documents]."""

    shards: NDArray[np.int64]
    starts: NDArray[np.int64]
    tokens: NDArray[np.int64]


class Store:
    """Soft labels in a folder. Opening reads footers alone; safe to hand to forked or spawned processes."""

    def __init__(self, folder: str | Path) -> None:
        """StoreError where there is no store, or one that is damaged or newer than this package."""
        self.folder = Path(folder)
        self.manifest, self._tables = Manifest.load(self.folder)
        self.shards = [Shard(path) for path in sorted(self.folder.glob(f"*{SUFFIX}"))]
        for shard in self.shards:
            if shard.facts["store"] != self.manifest.identity:
                raise StoreError(
                    f"{shard.path} belongs to another store: its labels were made with other settings or by another teacher; move it "
                    "away"
                )
        self.tokens_of_rank = self._tables["tokens_of_rank"].astype(np.int64)
        # Of the shards, not of this store: one that keeps a method of its own would live until Python looks for circles.
        self._page = lru_cache(maxsize=_CACHED_PAGES)(partial(_read_page, self.shards))

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.folder,)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Of the softmax its labels can be read at; () = any."""
        match self.manifest.codec:
            case Sampled():
                return (self.manifest.temperature,)
            case TopK(temperatures=known):
                return known
            case Hidden() | Dense():
                return ()

    @property
    def num_documents(self) -> int:
        """With labels."""
        return len(self._index[0])

    @property
    def num_tokens(self) -> int:
        """Predictions with labels."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Of all files of the store."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @property
    def missing_shards(self) -> list[str]:
        """Files that were planned and are not there."""
        try:
            planned = json.loads((self.folder / PLAN).read_text("utf-8"))["shards"]
        except (OSError, ValueError, RecursionError, KeyError):
            return []
        present = {shard.path.name for shard in self.shards}
        return [name for name in planned if name not in present]

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """What was observed while labelling, summed over all predictions (SUMS in observed.py)."""
        return np.sum([shard.documents.sums.sum(0) for shard in self.shards], axis=0)

    def has(self, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether documents have labels; keys uint8 [documents, 16]."""
        return self.places(keys).shards >= 0

    def places(self, keys: NDArray[np.uint8]) -> Places:
        """Where documents' labels lie; keys uint8 [documents, 16]."""
        known, shards, starts, tokens = self._index
        wanted = _sortable(keys)
        where = np.searchsorted(known, wanted)
        where[where == len(known)] = 0
        is_known = known[where] == wanted if len(known) else np.zeros(len(wanted), dtype=bool)
        if not len(known):
            nothing = np.zeros(len(wanted), dtype=np.int64)
            return Places(nothing - 1, nothing, nothing)
        return Places(np.where(is_known, shards[where], -1), starts[where], np.where(is_known, tokens[where], 0))

    def read(
        self, shards: NDArray[np.int64], numbers: NDArray[np.int64], temperature: float
    ) -> DenseTargets | SparseTargets:
        """Labels of predictions, each by its shard and its number there, in this order."""
        pages, order = self._pages_of(shards, numbers)
        streams = {
            name: np.concatenate([np.zeros(0, dtype=dtype), *(page[name] for page in pages)])
            for name, dtype in (self.shards[0].streams if self.shards else [])
        }
        match self.manifest.codec:
            case Sampled() as codec:
                return _sparse(codec.decode(streams, self.tokens_of_rank), order, temperature)
            case TopK() as codec:
                return _sparse(codec.decode(streams, self.tokens_of_rank, temperature), order, temperature)
            case Hidden() as codec:
                rows = codec.decode(streams)[order]
            case Dense() as codec:
                rows = codec.decode(streams, self.manifest.num_tokens)[order]
        return DenseTargets(torch.from_numpy(rows).to(self._head.weight.dtype), self._head)

    def _pages_of(
        self, shards: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> tuple[list[dict[str, NDArray]], NDArray[np.int64]]:
        """(the pages that hold these predictions, end to end; the place of each prediction in them)."""
        size = self.manifest.page_tokens
        page = (shards << 32) + numbers // size
        wanted, of = np.unique(page, return_inverse=True)
        pages = [self._page(int(one) >> 32, int(one) & 0xFFFFFFFF) for one in wanted]
        lengths = [min(size, self.shards[one >> 32].num_tokens - (one & 0xFFFFFFFF) * size) for one in wanted.tolist()]
        starts = np.cumsum([0, *lengths])[:-1]
        return pages, starts[of] + numbers % size

    @cached_property
    def _head(self) -> Head:
        if isinstance(self.manifest.codec, Dense):
            return Head(torch.eye(self.manifest.num_tokens))
        bias = self._tables.get("head_bias")
        scale, softcap = self.manifest.head["scale"], self.manifest.head["softcap"]
        assert scale is not None
        weight = torch.from_numpy(self._tables["head_weight"])
        return Head(weight, None if bias is None else torch.from_numpy(bias), scale, softcap, self.manifest.num_tokens)

    @cached_property
    def _index(self) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(sorted keys, shard, first prediction, predictions)."""
        keys, shards, starts, tokens = [], [], [], []
        for number, shard in enumerate(self.shards):
            documents = shard.documents
            sizes = documents.tokens.astype(np.int64)
            keys.append(_sortable(documents.keys))
            shards.append(np.full(len(sizes), number, dtype=np.int64))
            starts.append(np.cumsum(sizes) - sizes)
            tokens.append(sizes)
        if not keys:
            nothing = np.zeros(0, dtype=np.int64)
            return np.zeros(0, dtype="S32"), nothing, nothing, nothing
        every = np.concatenate(keys)
        order = np.argsort(every, kind="stable")
        found = [np.concatenate(one)[order] for one in (shards, starts, tokens)]
        return every[order], found[0], found[1], found[2]


def _read_page(shards: Sequence[Shard], shard: int, page: int) -> dict[str, NDArray]:
    return shards[shard].page(page)


def document_keys(
    ids: NDArray[np.uint32], weights: NDArray[np.float32], offsets: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """A key for each document: of its token ids, and of which of them are predicted. uint8 [documents, 16]."""
    keys = np.empty((len(offsets) - 1, 16), dtype=np.uint8)
    for number, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        digest = hashlib.blake2b(ids[start:stop].astype("<u4").tobytes(), digest_size=16)
        digest.update(np.packbits(weights[start:stop] > 0).tobytes())
        keys[number] = np.frombuffer(digest.digest(), dtype=np.uint8)
    return keys


def _sortable(keys: NDArray[np.uint8]) -> NDArray:
    """As hexadecimal text: numpy drops zero bytes at the end of raw ones."""
    return np.array([key.tobytes().hex() for key in keys], dtype="S32")


def _sparse(labels: Ragged, order: NDArray[np.int64], temperature: float) -> SparseTargets:
    """These predictions, in this order, each in as many slots as the longest of them needs."""
    counts = labels.counts[order]
    starts = (np.cumsum(labels.counts) - labels.counts)[order]
    slots = np.arange(counts.max(initial=0))
    is_used = slots < counts[:, None]
    places = np.minimum(starts[:, None] + slots, max(len(labels.ids) - 1, 0))
    ids = np.where(is_used, labels.ids[places], -1)
    probs = np.where(is_used, labels.probs[places], np.float32(0))
    rest = None if labels.rest is None else torch.from_numpy(labels.rest[order])
    return SparseTargets(torch.from_numpy(ids), torch.from_numpy(probs), rest, temperature)
