"""What a model goes on from: the beginnings of documents, up to what it is to write itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.data.tokenizing import TokenCorpus
from potstill.errors import DataError


@dataclass(frozen=True)
class Prompts:
    """Prompt p is the first `sizes[p]` tokens of the document `documents[p]`; `num_too_long` documents were left out."""

    corpus: TokenCorpus
    documents: NDArray[np.int64]
    sizes: NDArray[np.int64]
    num_too_long: int = 0

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        start = self.corpus.offsets[self.documents[number]]
        return self.corpus.ids[start : start + self.sizes[number]].astype(np.int64)


def prompts_of(corpus: TokenCorpus, *, tokens: int, longest: int) -> Prompts:
    """The prompts of a corpus.

    Of a prompt with its completion: the prompt. Of a chat: everything before the assistant's last turn, what the template puts in
    front of it included. Of plain text: its first `tokens` tokens, at most half of them. A token in which prompt and completion
    meet belongs to the completion. Prompts of more than `longest` tokens are left out, since half a prompt asks something else.
    Raises DataError where none is left.
    """
    starts, sizes = corpus.offsets[:-1], np.diff(corpus.offsets)
    counts = np.concatenate([corpus.weights > 0, [False]])
    begins = np.flatnonzero(counts[1:-1] & ~counts[:-2]) + 1  # a document's first token never counts
    last = np.searchsorted(begins, corpus.offsets[1:]) - 1
    found = begins[np.maximum(last, 0)] if len(begins) else np.zeros(len(corpus), np.int64)
    of_samples = np.where((last >= 0) & (found > starts), found - starts, 0)
    wanted = np.where(corpus.is_sample, of_samples, np.minimum(tokens, sizes // 2))
    kept = (wanted > 0) & (wanted <= longest)
    num_too_long = int((wanted > longest).sum())
    if not kept.any():
        raise DataError(
            f"there is nothing to go on from: of {len(corpus):,} documents, {num_too_long:,} have prompts of more than {longest:,} tokens, "
            "and the others none. Raise training.length, or write fewer tokens"
        )
    return Prompts(corpus, np.flatnonzero(kept), wanted[kept].astype(np.int64), num_too_long)
