"""From a corpus to batches: windows of documents, packed into rows, shuffled, by step number.

The batch of a step is a function of the corpus, the settings and the step alone. Windows are packed once (which windows
share a row doesn't matter: they don't see each other) and the rows are shuffled anew each epoch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.data.rows import PADDING, shuffled
from potstill.data.tokenizing import TokenCorpus, check_learnable
from potstill.errors import DataError
from potstill.types import Batch


@dataclass(frozen=True)
class Windows:
    """Stretches of documents: `sizes` predictions of `documents`, the first made after token `starts`."""

    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.documents)


@dataclass(frozen=True)
class PackingReport:
    """What becomes of a corpus. Shares are of all positions; `tokens_lost` are the counted ones beyond the context."""

    documents: int
    tokens: int
    counted_tokens: int
    windows: int
    rows: int
    samples_cut: int
    tokens_lost: int
    padding_share: float


@dataclass(frozen=True)
class PackedBatches:
    """Batches of `rows` sequences of `length` positions, epoch after epoch, without end.

    Plain text is cut into windows that predict each token once; a prompt with its answer keeps its first `length`
    predictions, and what is lost is in the report. With `pack`, short windows share rows.
    """

    corpus: TokenCorpus
    length: int
    rows: int
    seed: int = 0
    pack: bool = True

    def __post_init__(self) -> None:
        check_learnable(self.corpus)
        if len(self.windows) == 0:
            raise DataError(
                f"no prediction that counts is among the first {self.length} of any sample: the prompts fill the whole context; "
                "raise training.length"
            )

    @cached_property
    def windows(self) -> Windows:
        """Every window with something to learn in it."""
        return windows_of(self.corpus, self.length)

    @property
    def rows_per_epoch(self) -> int:
        """How many rows the whole corpus fills."""
        return len(self._plan) - 1

    @property
    def steps_per_epoch(self) -> float:
        """How many steps one pass over the corpus takes."""
        return self.rows_per_epoch / self.rows

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches of step, step + 1, ... An epoch's last batch is filled up with the next one's first rows."""
        while True:
            numbers = range(step * self.rows, (step + 1) * self.rows)
            yield self._batch([self._row(number) for number in numbers])
            step += 1

    @cached_property
    def report(self) -> PackingReport:
        """What becomes of the corpus."""
        counted = int((self.corpus.weights > 0).sum())
        counted_before = np.concatenate([[0], np.cumsum(self.corpus.weights > 0)])
        firsts = self.corpus.offsets[self.windows.documents] + self.windows.starts + 1
        kept = int((counted_before[firsts + self.windows.sizes] - counted_before[firsts]).sum())
        sizes = np.diff(self.corpus.offsets) - 1
        return PackingReport(
            documents=len(self.corpus),
            tokens=self.corpus.num_tokens,
            counted_tokens=counted,
            windows=len(self.windows),
            rows=self.rows_per_epoch,
            samples_cut=int((self.corpus.is_sample & (sizes > self.length)).sum()),
            tokens_lost=counted - kept,
            padding_share=1 - float(self.windows.sizes.sum()) / (self.rows_per_epoch * self.length),
        )

    @cached_property
    def _plan(self) -> NDArray[np.int64]:
        """Row r holds the windows _members[_plan[r]:_plan[r + 1]]."""
        return self._packed[0]

    @cached_property
    def _packed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.random.default_rng([self.seed, 0]).permutation(len(self.windows))
        sizes = self.windows.sizes[order]
        if not self.pack:
            return np.arange(len(order) + 1), order
        rows = best_fit(sizes, self.length)
        counts = np.array([len(row) for row in rows], dtype=np.int64)
        return np.concatenate([[0], np.cumsum(counts)]), order[np.concatenate(rows)]

    def _row(self, number: int) -> NDArray[np.int64]:
        """The windows of the number-th row that training ever reads."""
        epoch, place = divmod(number, self.rows_per_epoch)
        row = shuffled(self.seed, epoch, self.rows_per_epoch)[place]
        return self._packed[1][self._plan[row] : self._plan[row + 1]]

    def _batch(self, rows: list[NDArray[np.int64]]) -> Batch:
        return batch_of(self.corpus, self.windows, rows, self.length)


def windows_of(corpus: TokenCorpus, length: int) -> Windows:
    """All windows of at most `length` predictions in which something counts; only the first of a prompt with its answer."""
    sizes = np.maximum(np.diff(corpus.offsets) - 1, 0)
    counts = np.where(corpus.is_sample, np.minimum(1, sizes), -(-sizes // length))
    documents = np.repeat(np.arange(len(corpus)), counts)
    numbers = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = numbers * length
    spans = np.minimum(length, sizes[documents] - starts)
    counted = np.concatenate([[0], np.cumsum(corpus.weights > 0)])
    firsts = corpus.offsets[documents] + starts + 1
    is_useful = counted[firsts + spans] > counted[firsts]
    return Windows(documents[is_useful], starts[is_useful], spans[is_useful])


def best_fit(sizes: NDArray[np.int64], length: int) -> list[list[int]]:
    """Which windows share a row of `length`, longest first, each where it leaves the least room (Johnson 1973: within 11/9 of the
    best)."""
    rows: list[list[int]] = []
    rooms: list[int] = []  # the different rooms that are left somewhere, ascending
    rows_with: dict[int, list[int]] = {}
    longest_first = np.argsort(-sizes, kind="stable")
    for window, size in zip(longest_first.tolist(), sizes[longest_first].tolist(), strict=True):
        place = bisect_left(rooms, size)
        if place < len(rooms):
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rows_with[room], rooms[place]
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(window)
        if left := room - size:
            if left not in rows_with:
                insort(rooms, left)
            rows_with.setdefault(left, []).append(row)
    return rows


def ordered_batches(corpus: TokenCorpus, *, length: int, rows: int) -> Iterator[Batch]:
    """One pass in order, one window a row, padded to the longest of the batch: for measuring."""
    windows = windows_of(corpus, length)
    for start in range(0, len(windows), rows):
        members = [np.array([window]) for window in range(start, min(start + rows, len(windows)))]
        yield batch_of(corpus, windows, members, int(windows.sizes[start : start + rows].max()))


def batch_of(corpus: TokenCorpus, windows: Windows, rows: list[NDArray[np.int64]], width: int) -> Batch:
    """The windows of each row side by side, then padding. The one place where the shift happens."""
    inputs, targets, positions, offsets = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(4))
    weights = np.zeros((len(rows), width), dtype=np.float32)
    documents = np.full((len(rows), width), PADDING, dtype=np.int64)
    for row, members in enumerate(rows):
        place = 0
        for window in members:
            document, size = int(windows.documents[window]), int(windows.sizes[window])
            first = int(corpus.offsets[document] + windows.starts[window])
            here = slice(place, place + size)
            inputs[row, here] = corpus.ids[first : first + size]
            targets[row, here] = corpus.ids[first + 1 : first + size + 1]
            weights[row, here] = corpus.weights[first + 1 : first + size + 1]
            documents[row, here] = document
            positions[row, here] = np.arange(size)
            offsets[row, here] = int(windows.starts[window]) + np.arange(size)
            place += size
        positions[row, place:] = np.arange(width - place)
    return Batch(*(torch.from_numpy(array) for array in (inputs, targets, weights, documents, positions, offsets)))
