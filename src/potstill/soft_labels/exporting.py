"""A store's labels as a table that anything reads: Parquet with a row a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from potstill.data import TokenCorpus
from potstill.errors import StoreError
from potstill.soft_labels.store import Store, document_keys
from potstill.types import DenseTargets, SparseTargets

_ROWS_AT_ONCE = 64


def export_labels(store: Store, corpus: TokenCorpus, path: Path, *, k: int = 64) -> Iterator[int]:
    """Write `path`; yields documents written so far.

    Columns: input_ids, labels (-100 where nothing was labelled), and top_ids, top_logprobs [tokens][listed]: what is said after
    token t stands at t, in nats, at the store's temperature, the likeliest first. Sampled labels are listed as they are (the logarithm
    of their weights, each token once); of dense ones the `k` likeliest. Raises StoreError where documents have no labels.
    """
    import pyarrow
    import pyarrow.parquet

    places = store.places(document_keys(corpus.ids, corpus.weights, corpus.offsets))
    counted = np.array([(corpus.document(d)[1] > 0).any() for d in range(len(corpus))])
    if missing := int((counted & (places.shards < 0)).sum()):
        raise StoreError(f"{missing:,} of {len(corpus):,} documents of the text have no labels in {store.folder}")
    lists = {"top_ids": pyarrow.list_(pyarrow.int64()), "top_logprobs": pyarrow.list_(pyarrow.float32())}
    schema = pyarrow.schema(
        [
            ("input_ids", pyarrow.list_(pyarrow.int64())),
            ("labels", pyarrow.list_(pyarrow.int64())),
            *((name, pyarrow.list_(kind)) for name, kind in lists.items()),
        ]
    )
    part = path.with_name(path.name + ".part")
    temperature = (*store.temperatures, 1.0)[0]
    with pyarrow.parquet.ParquetWriter(part, schema) as writer:
        rows: list[dict[str, list]] = []
        for document in range(len(corpus)):
            ids, weights = corpus.document(document)
            after = np.flatnonzero(weights > 0)[: places.tokens[document]] - 1
            numbers = places.starts[document] + np.arange(len(after))
            shards = np.full(len(after), places.shards[document])
            listed = _listed(store.read(shards, numbers, temperature), k) if len(after) else []
            top_ids: list[list[int]] = [[] for _ in ids]
            top_logprobs: list[list[float]] = [[] for _ in ids]
            for place, (some, values) in zip(after.tolist(), listed, strict=True):
                top_ids[place], top_logprobs[place] = some, values
            labels = np.full(len(ids), -100, dtype=np.int64)
            labels[after + 1] = ids[after + 1]
            rows.append(
                {
                    "input_ids": ids.tolist(),
                    "labels": labels.tolist(),
                    "top_ids": top_ids,
                    "top_logprobs": top_logprobs,
                }
            )
            if len(rows) == _ROWS_AT_ONCE or document == len(corpus) - 1:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
                yield document + 1
    part.replace(path)


def _listed(targets: DenseTargets | SparseTargets, k: int) -> list[tuple[list[int], list[float]]]:
    """(tokens, log-probabilities) of each prediction, the likeliest first, without those of probability 0."""
    found = []
    for row in range(len(targets.ids if isinstance(targets, SparseTargets) else targets.rows)):
        if isinstance(targets, SparseTargets):
            is_there = (targets.ids[row] >= 0) & (targets.probs[row] > 0)
            ids, where = torch.unique(targets.ids[row][is_there], return_inverse=True)
            probs = torch.zeros(len(ids)).index_add_(0, where, targets.probs[row][is_there])
            probs, order = probs.sort(descending=True, stable=True)
            ids = ids[order]
        else:
            probs, ids = (
                targets.head.logits(targets.rows[row : row + 1]).softmax(-1)[0].topk(min(k, targets.head.num_tokens))
            )
        found.append((ids.tolist(), probs.log().tolist()))
    return found
