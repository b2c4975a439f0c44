"""A teacher whose tokenizer is not the student's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from potstill.data import TokenCorpus, best_fit
from potstill.errors import ModelError
from potstill.models import task_of
from potstill.teachers.alignment import Placed, Retelling, Spans, shared_spans
from potstill.teachers.live import LiveTeacher
from potstill.types import Batch, TranslatedTargets

_PADDING = -1


@dataclass(frozen=True)
class Coverage:
    """What of a batch a translated teacher can mark, as shares of the counted predictions; and how the vocabularies meet.

    marked         in a span that begins and ends at a token of both
    one_to_one     in a span of one token of each
    shared_tokens  share of the student's tokens that stand for the same bytes as one of the teacher's
    teacher_tokens tokens of the teacher for each of the student's in the marked spans
    """

    marked: float
    one_to_one: float
    shared_tokens: float
    teacher_tokens: float


class TranslatedTeacher:
    """A model that reads the text of a batch in its own tokens, and marks the spans whose ends are boundaries of both.

    Each context of the batch (a window of a document) is a text of its own: its bytes are had back from the student's tokens, and
    told in the teacher's. BOS is put where the student's context begins a document; a window in the middle of one has none.
    """

    def __init__(
        self,
        live: LiveTeacher,
        tokenizer: PreTrainedTokenizerBase,
        student_tokenizer: PreTrainedTokenizerBase,
        *,
        size: int,
        packs: bool = True,
    ) -> None:
        """`size` is the number of the student's tokens that get a probability. `packs`: several contexts may share a row of the teacher's.

        VocabularyError where a tokenizer doesn't keep the bytes of a text, ModelError where the teacher is no causal language model.
        """
        if task_of(live.model) != "causal":
            raise ModelError(
                f"{type(live.model).__name__} can't be translated: only causal language models read text to its end"
            )
        self.live, self.num_tokens, self.packs = live, size, packs
        self.retelling = Retelling(student_tokenizer, tokenizer)
        self.matches = torch.from_numpy(self._matches())
        longest = getattr(live.model.config, "max_position_embeddings", None)
        self.longest = longest if isinstance(longest, int) else None

    def label(self, batch: Batch) -> TranslatedTargets:
        """Hidden states at the teacher's own predictions of the spans, and which spans the counted predictions belong to.

        A span counts where all predictions of the student in it do. The teacher reads no further than its context is long.
        """
        spans_of, rows = self._spans(batch)
        counted = torch.from_numpy(spans_of)[batch.counted.cpu()]
        theirs, marks = self._batch(rows)
        targets = self.live.label(theirs)
        order = torch.argsort(marks, stable=True)
        device = targets.rows.device
        return TranslatedTargets(
            targets.rows[order.to(device)],
            targets.head,
            theirs.targets[theirs.counted][order].to(device),
            marks[order].to(device),
            counted.to(device),
            self.matches.to(device),
        )

    def coverage(self, batch: Batch) -> Coverage:
        """How much of the batch is marked. Runs no model."""
        spans_of, rows = self._spans(batch)
        counted = spans_of[batch.counted.cpu().numpy()]
        marked = counted[counted >= 0]
        ours = np.bincount(marked)
        theirs = np.bincount(
            np.concatenate([row.spans[row.spans >= 0] for row in rows] or [marked[:0]]), minlength=len(ours)
        )
        shared = torch.unique(self.matches[self.matches >= 0])
        return Coverage(
            marked=len(marked) / max(1, len(counted)),
            one_to_one=float(((ours == 1) & (theirs == 1)).sum()) / max(1, len(counted)),
            shared_tokens=len(shared) / self.num_tokens,
            teacher_tokens=float(theirs.sum()) / max(1, len(marked)),
        )

    def retold(self, corpus: TokenCorpus) -> tuple[TokenCorpus, TokenCorpus]:
        """(the corpus, the same text in the teacher's tokens), with weights such that in both the same bytes of each document count.

        For measuring: nats over bytes compare the two. What counts in the corpus and stands in no span doesn't count any more.
        """
        ours = [corpus.document(document) for document in range(len(corpus))]
        told = self.retelling.tell([(ids.tolist(), True) for ids, _ in ours])
        sizes, their_sizes = (
            np.array([len(one) for one in spelling.spelled])
            for spelling in (self.retelling.ours, self.retelling.theirs)
        )
        weights, their_weights = [], []
        for (ids, counts), theirs in zip(ours, told, strict=True):
            spans = shared_spans(self.retelling.place(ids.tolist(), begins=True), theirs)
            spans = _predicted(spans, counts > 0)
            # An invented space is a byte of one of the two alone.
            size = _sums(sizes[ids], spans.ours, spans.ours_stop)
            spans = spans.where(size == _sums(their_sizes[theirs.ids], spans.theirs, spans.theirs_stop))
            weights.append(_numbered(len(ids), spans.ours, spans.ours_stop, 0) >= 0)
            their_weights.append(_numbered(len(theirs.ids), spans.theirs, spans.theirs_stop, 0) >= 0)
        retold = TokenCorpus(
            ids=np.concatenate([one.ids for one in told]).astype(np.uint32),
            weights=np.concatenate(their_weights).astype(np.float32),
            offsets=np.cumsum([0, *(len(one.ids) for one in told)], dtype=np.int64),
            keys=corpus.keys,
            is_sample=corpus.is_sample,
            token_bytes=their_sizes.astype(np.uint16),
        )
        return replace(corpus, weights=np.concatenate(weights).astype(np.float32)), retold

    def _spans(self, batch: Batch) -> tuple[NDArray[np.int64], list[_Row]]:
        """(the number of the span each prediction of the batch belongs to, -1 where it is in none; the teacher's contexts)."""
        on_cpu = batch.to("cpu")
        spans_of = np.full(on_cpu.inputs.shape, -1, dtype=np.int64)
        contexts = _contexts(on_cpu)
        ids = [
            [*on_cpu.inputs[row, start : start + 1].tolist(), *on_cpu.targets[row, start:stop].tolist()]
            for row, start, stop in contexts
        ]
        begins = [bool(on_cpu.offsets[row, start] == 0) for row, start, _ in contexts]
        told = self.retelling.tell(list(zip(ids, begins, strict=True)))
        counted = on_cpu.counted.numpy()
        rows: list[_Row] = []
        number = 0
        for (row, start, stop), ours, is_begin, theirs in zip(contexts, ids, begins, told, strict=True):
            theirs = _cut(theirs, self.longest)
            found = shared_spans(self.retelling.place(ours, begins=is_begin), theirs)
            # Nobody predicts the first token of a context. Token j is predicted at place j - 1.
            found = _predicted(found, np.concatenate([[False], counted[row, start:stop]]))
            spans_of[row, start:stop] = _numbered(len(ours), found.ours, found.ours_stop, number)[1:]
            marks = _numbered(len(theirs.ids), found.theirs, found.theirs_stop, number)
            number += len(found.ours)
            if (marks >= 0).any():
                rows.append(_Row(theirs.ids, marks, int(on_cpu.documents[row, start])))
        return spans_of, rows

    def _batch(self, contexts: list[_Row]) -> tuple[Batch, torch.Tensor]:
        """The teacher's contexts side by side, and the span of each counted prediction in it."""
        sizes = np.array([len(one.ids) - 1 for one in contexts], dtype=np.int64)
        width = int(sizes.max(initial=1))
        rows = best_fit(sizes, width) if self.packs and len(sizes) else [[number] for number in range(len(sizes))]
        shape = (max(1, len(rows)), width)
        inputs, targets, offsets = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        spans, documents = np.full(shape, -1, dtype=np.int64), np.full(shape, _PADDING, dtype=np.int64)
        for row, members in enumerate(rows):
            place = 0
            for number in members:
                one, here = contexts[number], slice(place, place + int(sizes[number]))
                inputs[row, here], targets[row, here], spans[row, here] = one.ids[:-1], one.ids[1:], one.spans[1:]
                offsets[row, here], documents[row, here] = np.arange(sizes[number]), one.document
                place += int(sizes[number])
            offsets[row, place:] = np.arange(width - place)
        weights = (spans >= 0).astype(np.float32)
        columns = (inputs, targets, weights, documents, offsets, offsets)
        batch = Batch(*(torch.from_numpy(column) for column in columns))
        return batch, torch.from_numpy(spans[spans >= 0])

    def _matches(self) -> NDArray[np.int64]:
        """Which of the student's tokens stands for the same as each of the teacher's; -1: none. No two for one."""
        ours: dict[bytes, int] = {}
        for token, spelling in enumerate(self.retelling.ours.spelled[: self.num_tokens]):
            if spelling:
                ours.setdefault(spelling, token)
        found = np.full(self.live.num_tokens, -1, dtype=np.int64)
        for token, spelling in enumerate(self.retelling.theirs.spelled[: self.live.num_tokens]):
            if spelling:
                found[token] = ours.pop(spelling, -1)
        taken = set()
        for one, other in self.retelling.specials.items():
            if one < self.num_tokens and other < len(found) and other not in taken:
                found[other] = one
                taken.add(other)
        return found


@dataclass(frozen=True)
class _Row:
    """A context in the teacher's tokens: the span each of them belongs to (-1: none), and its document."""

    ids: NDArray[np.int64]
    spans: NDArray[np.int64]
    document: int


def _contexts(batch: Batch) -> list[tuple[int, int, int]]:
    """(row, start, stop) of each context in which something counts, in reading order."""
    found = []
    is_text = batch.documents >= 0
    for row in range(len(batch.inputs)):
        width = int(is_text[row].sum())  # padding stands last
        starts = (batch.positions[row, :width] == 0).nonzero().flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], width], strict=True):
            if batch.counted[row, start:stop].any():
                found.append((row, start, stop))
    return found


def _predicted(spans: Spans, counts: NDArray[np.bool_]) -> Spans:
    """The spans whose tokens of ours all count, and which neither context begins with."""
    is_counted = _sums(counts, spans.ours, spans.ours_stop) == spans.ours_stop - spans.ours
    return spans.where(is_counted & (spans.ours > 0) & (spans.theirs > 0))


def _sums(values: NDArray, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each stretch [begin, end)."""
    before = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return before[ends] - before[begins]


def _numbered(size: int, begins: NDArray[np.int64], ends: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """A column of that size with first, first + 1, ... in the stretches [begin, end), and -1 elsewhere."""
    sizes = ends - begins
    before = np.cumsum(sizes) - sizes
    column = np.full(size, -1, dtype=np.int64)
    column[np.arange(sizes.sum()) + np.repeat(begins - before, sizes)] = np.repeat(first + np.arange(len(sizes)), sizes)
    return column


def _cut(told: Placed, longest: int | None) -> Placed:
    """As much of it as fits: one token more than the context is long, since the last is only predicted."""
    if longest is None:
        return told
    here = slice(longest + 1)
    return Placed(told.ids[here], told.starts[here], told.stops[here])
