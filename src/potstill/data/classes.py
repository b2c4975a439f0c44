"""From labelled texts to batches for classifiers: one prediction a text, made after its last token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from potstill.data.packing import PackingReport
from potstill.data.rows import padded_rows, shuffled
from potstill.data.tokenizing import TokenCorpus
from potstill.errors import DataError
from potstill.types import Batch


@dataclass(frozen=True)
class ClassBatches:
    """Batches of `rows` texts of at most `length` tokens, epoch after epoch."""

    corpus: TokenCorpus
    length: int
    rows: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_labelled(self.corpus)

    @property
    def steps_per_epoch(self) -> float:
        """How many steps one pass over the corpus takes."""
        return len(self.corpus) / self.rows

    @cached_property
    def report(self) -> PackingReport:
        """What becomes of the corpus."""
        sizes = np.diff(self.corpus.offsets)
        kept = np.minimum(sizes, self.length)
        return PackingReport(
            documents=len(self.corpus),
            tokens=self.corpus.num_tokens,
            counted_tokens=len(self.corpus),
            windows=len(self.corpus),
            rows=len(self.corpus),
            samples_cut=int((sizes > self.length).sum()),
            tokens_lost=0,
            padding_share=1 - float(kept.sum()) / (len(kept) * float(kept.max())),
        )

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches of step, step + 1, ..."""
        while True:
            texts = []
            for number in range(step * self.rows, (step + 1) * self.rows):
                epoch, place = divmod(number, len(self.corpus))
                texts.append(int(shuffled(self.seed, epoch, len(self.corpus))[place]))
            yield _batch(self.corpus, texts, self.length)
            step += 1


def classes_in_order(corpus: TokenCorpus, *, length: int, rows: int) -> Iterator[Batch]:
    """One pass in order: for measuring."""
    check_labelled(corpus)
    for start in range(0, len(corpus), rows):
        yield _batch(corpus, range(start, min(start + rows, len(corpus))), length)


def check_labelled(corpus: TokenCorpus) -> None:
    """DataError where a text has no class."""
    if not len(corpus) or (corpus.labels < 0).any():
        missing = int((corpus.labels < 0).sum())
        raise DataError(
            f"{missing:,} of {len(corpus):,} texts have no class: a classifier needs a column `label` beside `text` (name yours in "
            '[data.columns], as in label = "intent")'
        )


def _batch(corpus: TokenCorpus, texts: Sequence[int], length: int) -> Batch:
    read, targets, weights = [], [], []
    for text in texts:
        ids = corpus.ids[corpus.offsets[text] : corpus.offsets[text + 1]].astype(np.int64)
        if len(ids) > length:
            ids = np.concatenate([ids[: length - 1], ids[-1:]])  # what closes a text stays
        weight, target = np.zeros(len(ids), dtype=np.float32), np.zeros(len(ids), dtype=np.int64)
        weight[-1:], target[-1:] = 1.0, corpus.labels[text]
        read.append(ids)
        targets.append(target)
        weights.append(weight)
    return padded_rows(read, targets, weights, list(texts), [0] * len(texts))
