"""From a corpus to batches for masked language models: some tokens hidden, to be predicted where they stood (BERT, Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from potstill.data.packing import PackingReport
from potstill.data.rows import padded_rows, shuffled
from potstill.data.tokenizing import TokenCorpus
from potstill.errors import DataError
from potstill.types import Batch

_MEASURING = 1_000_003  # the seed of what is hidden when measuring: the same for all models


@dataclass(frozen=True)
class Masking:
    """What is hidden and how: of the tokens that are not special, a share `rate`; of these 80 % become `mask`, 10 % any token, 10 % stay.

    first, last  what stands around every window (BERT's [CLS] and [SEP]); None where the tokenizer has none
    ordinary     bool [vocabulary]: which tokens are not special
    """

    mask: int
    first: int | None
    last: int | None
    ordinary: NDArray[np.bool_]
    rate: float = 0.15

    @property
    def around(self) -> int:
        """How many tokens stand around a window."""
        return (self.first is not None) + (self.last is not None)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, rate: float = 0.15) -> Masking:
        """As the tokenizer has it; DataError for one without a mask token."""
        if tokenizer.mask_token_id is None:
            raise DataError(f"{type(tokenizer).__name__} has no mask token: it is not that of a masked language model")
        ordinary = np.ones(len(tokenizer), dtype=bool)
        ordinary[tokenizer.all_special_ids] = False
        return cls(int(str(tokenizer.mask_token_id)), tokenizer.cls_token_id, tokenizer.sep_token_id, ordinary, rate)  # type: ignore[arg-type]

    def hide(self, ids: NDArray[np.int64], draw: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(what is read, which positions are predicted); one at least, where any is ordinary."""
        places = np.flatnonzero(self.ordinary[ids])
        chosen = draw.permutation(places)[: max(1, round(self.rate * len(places)))] if len(places) else places
        read, is_hidden = ids.copy(), np.zeros(len(ids), dtype=bool)
        is_hidden[chosen] = True
        fate = draw.random(len(chosen))
        read[chosen[fate < 0.8]] = self.mask
        others = chosen[(fate >= 0.8) & (fate < 0.9)]
        read[others] = draw.choice(np.flatnonzero(self.ordinary), len(others))
        return read, is_hidden


@dataclass(frozen=True)
class MaskedBatches:
    """Batches of `rows` windows of at most `length` tokens, epoch after epoch, each time with other tokens hidden."""

    corpus: TokenCorpus
    length: int
    rows: int
    masking: Masking
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.windows):
            raise DataError(f"none of the {len(self.corpus):,} documents has a token that could be hidden")

    @cached_property
    def windows(self) -> list[tuple[int, int, int]]:
        """(document, first token, tokens) of each, without what stands around it."""
        return _windows(self.corpus, self.masking, self.length)

    @property
    def steps_per_epoch(self) -> float:
        """How many steps one pass over the corpus takes."""
        return len(self.windows) / self.rows

    @cached_property
    def report(self) -> PackingReport:
        """What becomes of the corpus; of what is learned from, a share is predicted in each epoch."""
        sizes = np.array([size for _, _, size in self.windows]) + self.masking.around
        learned = int(sum(self.masking.ordinary[self.corpus.ids[self._span(window)]].sum() for window in self.windows))
        return PackingReport(
            documents=len(self.corpus),
            tokens=self.corpus.num_tokens,
            counted_tokens=learned,
            windows=len(self.windows),
            rows=len(self.windows),
            samples_cut=0,
            tokens_lost=0,
            padding_share=1 - float(sizes.sum()) / (len(sizes) * float(sizes.max())),
        )

    def _span(self, window: tuple[int, int, int]) -> slice:
        begin = int(self.corpus.offsets[window[0]]) + window[1]
        return slice(begin, begin + window[2])

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches of step, step + 1, ..."""
        while True:
            rows = []
            for number in range(step * self.rows, (step + 1) * self.rows):
                epoch, place = divmod(number, len(self.windows))
                window = self.windows[shuffled(self.seed, epoch, len(self.windows))[place]]
                rows.append((window, np.random.default_rng([self.seed, 2, number])))
            yield _batch(self.corpus, self.masking, rows)
            step += 1


def masked_in_order(corpus: TokenCorpus, masking: Masking, *, length: int, rows: int) -> Iterator[Batch]:
    """One pass in order; what is hidden depends on the document alone: for measuring."""
    windows = _windows(corpus, masking, length)
    for start in range(0, len(windows), rows):
        some = windows[start : start + rows]
        yield _batch(corpus, masking, [(one, np.random.default_rng([_MEASURING, *one])) for one in some])


def _windows(corpus: TokenCorpus, masking: Masking, length: int) -> list[tuple[int, int, int]]:
    windows, room = [], length - masking.around
    for document in range(len(corpus)):
        start, end = int(corpus.offsets[document]), int(corpus.offsets[document + 1])
        if end > start and corpus.ids[start] == masking.first:
            start += 1
        if end > start and corpus.ids[end - 1] == masking.last:
            end -= 1
        for first in range(start, end, room):
            size = min(room, end - first)
            if masking.ordinary[corpus.ids[first : first + size]].any():
                windows.append((document, first - int(corpus.offsets[document]), size))
    return windows


def _batch(
    corpus: TokenCorpus, masking: Masking, rows: list[tuple[tuple[int, int, int], np.random.Generator]]
) -> Batch:
    read, targets, weights, documents, offsets = [], [], [], [], []
    for (document, first, size), draw in rows:
        begin = int(corpus.offsets[document]) + first
        ids = corpus.ids[begin : begin + size].astype(np.int64)
        before = [] if masking.first is None else [masking.first]
        after = [] if masking.last is None else [masking.last]
        whole = np.concatenate([before, ids, after]).astype(np.int64)
        seen, is_hidden = masking.hide(whole, draw)
        read.append(seen)
        targets.append(whole)
        weights.append(is_hidden.astype(np.float32))
        documents.append(document)
        offsets.append(first - len(before))
    return padded_rows(read, targets, weights, documents, offsets)
