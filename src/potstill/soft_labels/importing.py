"""A store of tier `topk` from likeliest tokens that another tool kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.data import Columns, Document, TokenCorpus, Tokens, documents_of_records, read_records
from potstill.errors import DataError, StoreError
from potstill.soft_labels.foreign import Layout, Listed, Polynomial, Record, answer_of, layout_of, listed
from potstill.soft_labels.observed import SUMS
from potstill.soft_labels.planning import explained, plan_of, write_plan
from potstill.soft_labels.shard import Documents, write_shard
from potstill.soft_labels.store import Store
from potstill.soft_labels.streams import Encoded, joined
from potstill.soft_labels.topk import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_OVER_ONE = 1e-2
_LEAST_TO_JUDGE = 64


@dataclass(frozen=True)
class ForeignLabels:
    """Rows of another tool: where they are, and how to read them.

    layout      which tool's (None: by their columns)
    compressor  of DistillKit's compressed rows
    logprobs    the column of axolotl's raw rows
    """

    source: str
    tokenizer: PreTrainedTokenizerBase
    layout: Layout | None = None
    compressor: Polynomial | None = None
    logprobs: str = "logprobs"
    split: str = "train"

    def documents(self) -> Iterator[Document]:
        """The text of the rows."""
        return (document for _, _, document in self._rows())

    def labels(self, corpus: TokenCorpus) -> Iterator[tuple[str, Listed]]:
        """(where it stands, what was said) of each document of the corpus, which is of these `documents`."""
        for number, (where, record, _) in enumerate(self._rows()):
            layout = self._layout(record, where)
            if layout == "openai":
                yield where, answer_of(record, self.tokenizer, where)[2]
            else:
                size = int(np.diff(corpus.offsets)[number])
                yield (
                    where,
                    listed(record, layout, size, where, compressor=self.compressor, logprobs=self.logprobs),
                )

    @property
    def is_of_answers(self) -> bool:
        """Whether the rows are answers of a server, whose text nothing else can read."""
        where, record = next(iter(read_records(self.source, split=self.split)))
        return self._layout(record, where) == "openai"

    def write_text(self, path: Path) -> None:
        """The text as rows of input_ids and labels, to learn from."""
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            for document in self.documents():
                assert document.tokens is not None
                ids = document.tokens.ids
                labels = [one if counts else -100 for one, counts in zip(ids, document.tokens.counts, strict=True)]
                file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
        part.replace(path)

    def _rows(self) -> Iterator[tuple[str, Record, Document]]:
        for where, record in read_records(self.source, split=self.split):
            if self._layout(record, where) == "openai":
                before, written, _ = answer_of(record, self.tokenizer, where)
                tokens = Tokens((*before, *written), (*(False for _ in before), *(True for _ in written)))
                yield where, record, Document(where, (), is_sample=True, ends=False, tokens=tokens)
            else:
                for document in documents_of_records([(where, record)], Columns(), self.tokenizer):
                    yield where, record, document

    def _layout(self, record: Record, where: str) -> Layout:
        found = self.layout or layout_of(record) or ("axolotl" if self.logprobs in record else None)
        if found is None:
            raise DataError(
                f"{where} has columns {', '.join(map(repr, record)) or 'none'}, and none of them hold log-probabilities of a tool known "
                "here: name it (--layout columns, distillkit, axolotl or openai)"
            )
        return found


def most_listed(labels: ForeignLabels, corpus: TokenCorpus, *, documents: int = 16) -> int:
    """The longest list among the first documents. DataError where there is none."""
    most = max(
        (len(ids) for _, one in islice(labels.labels(corpus), documents) for ids in one.ids),
        default=0,
    )
    if most == 0:
        raise DataError(f"{labels.source} lists no token in its first {documents} rows")
    return most


def import_labels(labels: ForeignLabels, corpus: TokenCorpus, folder: Path) -> Iterator[int]:
    """Write what the store at `folder` (see `begin_store`) has not got; yields predictions written so far, after each shard.

    DataError for a counted prediction without a list, for numbers that are no log-probabilities, and for lists that are of the token
    before or after the one they should be of.
    """
    store = Store(folder)
    plan = plan_of(corpus, store)
    with explained(folder):
        write_plan(folder, [shard.path.name for shard in store.shards], plan)
    ranks = torch.empty(store.manifest.num_tokens, dtype=torch.int64)
    ranks[torch.from_numpy(store.tokens_of_rank)] = torch.arange(len(ranks))
    rows, at, done = labels.labels(corpus), 0, 0
    for shard in plan:
        encoded, sums, found = [], [], []
        for document in shard.documents.tolist():
            where, one = next(islice(rows, document - at, None))
            at = document + 1
            found.append((document, one))
            part, part_sums = _encoded(where, one, corpus, document, store, ranks)
            encoded.append(part)
            sums.append(part_sums.sum(0))
        _refuse_shifted(labels.source, corpus, found)
        documents = Documents(shard.keys, shard.counts.astype(np.uint32), np.stack(sums))
        with explained(folder):
            path = folder / shard.name
            size, identity = store.manifest.page_tokens, store.manifest.identity
            write_shard(path, documents, joined(encoded), page_tokens=size, store=identity)
        done += shard.tokens
        yield done


def _encoded(
    where: str, one: Listed, corpus: TokenCorpus, document: int, store: Store, ranks: torch.Tensor
) -> tuple[Encoded, NDArray[np.float64]]:
    """(labels, [predictions, sums]) of the counted predictions of a document."""
    codec, temperature = store.manifest.codec, store.manifest.temperature
    assert isinstance(codec, TopK)
    tokens, weights = corpus.document(document)
    places = np.flatnonzero(weights > 0) - 1 - one.first
    is_there = np.array([0 <= place < len(one.ids) and len(one.ids[place]) > 0 for place in places], dtype=bool)
    if not is_there.all():
        raise DataError(
            f"{where}: {int((~is_there).sum())} of {len(places)} predictions that count have no log-probabilities: put -100 into "
            "'labels' where there are none, or leave the row out"
        )
    num_tokens = store.manifest.num_tokens
    ids, logprobs = np.empty((len(places), codec.k), dtype=np.int64), np.full((len(places), codec.k), -np.inf)
    for row, place in enumerate(places.tolist()):
        ids[row], logprobs[row] = _filled(one.ids[place], one.logprobs[place], codec.k, num_tokens)
    sums = np.exp(logprobs).sum(1)
    if not (np.isfinite(sums).all() and (sums <= 1 + _MOST_OVER_ONE).all() and (sums > 0).all()):
        bad = int(np.flatnonzero(~((sums <= 1 + _MOST_OVER_ONE) & (sums > 0)))[0])
        raise DataError(
            f"{where}: the listed probabilities of prediction {bad} sum to {sums[bad]:.4g}: nats are needed, not logits"
        )
    rest = np.clip(1 - sums, 0, 1)
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(logprobs), logprobs * temperature, -1e6)
    part = codec.encode_listed(torch.from_numpy(values), torch.from_numpy(ids), [torch.from_numpy(rest)], ranks)
    return part, _sums(ids, logprobs, rest, tokens[weights > 0].astype(np.int64))


def _filled(
    ids: NDArray[np.int64], logprobs: NDArray[np.float64], k: int, num_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k likeliest, once each; where there are fewer, tokens of probability 0."""
    order = np.argsort(-logprobs, kind="stable")
    order = order[(ids[order] >= 0) & (ids[order] < num_tokens)]
    _, firsts = np.unique(ids[order], return_index=True)
    order = order[np.sort(firsts)][:k]
    if (short := k - len(order)) > 0:
        free = np.setdiff1d(np.arange(2 * k), ids[order])[:short]
        return np.concatenate([ids[order], free]), np.concatenate([logprobs[order], np.full(short, -np.inf)])
    return ids[order], logprobs[order]


def _sums(
    ids: NDArray[np.int64], logprobs: NDArray[np.float64], rest: NDArray[np.float64], true: NDArray[np.int64]
) -> NDArray[np.float64]:
    """SUMS in observed.py as far as lists tell: all unlisted tokens are one event."""
    probs = np.exp(logprobs)
    at_true = (probs * (ids == true[:, None])).sum(1)
    tiny = np.finfo(np.float64).tiny
    entropy = -(probs * np.log(np.maximum(probs, tiny))).sum(1) - rest * np.log(np.maximum(rest, tiny))
    nll = -np.log(np.maximum(np.where(at_true > 0, at_true, rest), 1e-9))
    hits = ids[np.arange(len(ids)), probs.argmax(1)] == true
    found = np.stack([entropy, nll, hits, np.square(probs).sum(1)], axis=1)
    assert found.shape[1] == len(SUMS)
    return found


def _refuse_shifted(source: str, corpus: TokenCorpus, found: list[tuple[int, Listed]]) -> None:
    """A teacher's likeliest token is the text's next one far more often than the one before or after it, unless labels are misaligned."""
    hits, count = np.zeros(3), 0
    for document, one in found:
        tokens = corpus.document(document)[0].astype(np.int64)
        first = max(1, 1 - one.first)
        last = min(len(one.ids), len(tokens) - one.first - 2)
        for entry in range(first, last):
            if len(one.ids[entry]):
                best = one.ids[entry][one.logprobs[entry].argmax()]
                after = one.first + entry
                hits += [best == tokens[after + shift] for shift in (0, 1, 2)]
                count += 1
    shares = hits / max(count, 1)
    if count >= _LEAST_TO_JUDGE and shares.argmax() != 1 and shares.max() > 2 * shares[1] + 0.05:
        where = "itself" if shares.argmax() == 0 else "after the next"
        raise StoreError(
            f"the labels of {source} are misaligned: their likeliest token is the text's next one in {shares[1]:.0%} of the cases, and "
            f"the one {where} in {shares.max():.0%}. Name the tool they are of (--layout): tools differ in which token an entry is of"
        )
