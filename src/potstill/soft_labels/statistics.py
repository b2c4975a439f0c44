"""What is in a store, in numbers: its bytes, what the teacher was like, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potstill.soft_labels.observed import SUMS
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.store import Store
from potstill.soft_labels.topk import TopK
from potstill.types import SparseTargets

_LOOKED_AT = 20_000


@dataclass(frozen=True)
class Description:
    """Means are a prediction's.

    bytes_per_token    all files of the store, over predictions
    stream_bytes       of that, by stream
    entropy            of the teacher, in nats: what one hard label drawn from it hides
    nll                nats of its surprise at the text; above the entropy, it is too sure of itself, below, not sure enough
    accuracy           how often its likeliest token is the text's
    collision          the probability that two draws from it are the same token: 1 - collision is the squared error of a single hard
                       label drawn from the teacher, taken as an estimate of its distribution
    records            tokens listed (None: all are)
    listed_for_sure    of the probability, the part kept with its own value (head, top-k); the rest is sampled or one event
    squared_error      expected, of the stored distribution against the teacher's (sampled; None elsewhere)
    hard_labels        so many independent hard labels drawn from the teacher estimate its distribution as well as what is stored
    """

    documents: int
    tokens: int
    bytes_per_token: float
    stream_bytes: dict[str, float]
    entropy: float
    nll: float
    accuracy: float
    collision: float
    records: float | None
    listed_for_sure: float | None
    squared_error: float | None
    hard_labels: float | None


def describe(store: Store) -> Description:
    """Read the footers, and some 20,000 predictions from places all over the store."""
    tokens = store.num_tokens
    means = dict(zip(SUMS, (store.sums / max(tokens, 1)).tolist(), strict=True))
    streams: dict[str, float] = {}
    for shard in store.shards:
        for name, size in shard.stream_bytes().items():
            streams[name] = streams.get(name, 0.0) + size / tokens
    records = sure = error = None
    if isinstance(store.manifest.codec, Sampled | TopK) and tokens:
        records, sure, error = _of_sample(store, _sample(store))
    gini = 1 - means["collision"]
    return Description(
        store.num_documents,
        tokens,
        store.num_bytes / max(tokens, 1),
        streams,
        means["entropy"],
        means["nll"],
        means["hits"],
        means["collision"],
        records,
        sure,
        error,
        gini / error if error else None,
    )


def _sample(store: Store) -> SparseTargets:
    sizes = np.array([shard.num_tokens for shard in store.shards])
    places = np.linspace(0, sizes.sum() - 1, min(_LOOKED_AT, int(sizes.sum()))).astype(np.int64)
    shards = np.searchsorted(np.cumsum(sizes), places, side="right")
    targets = store.read(shards, places - (np.cumsum(sizes) - sizes)[shards], store.temperatures[0])
    assert isinstance(targets, SparseTargets)
    return targets


def _of_sample(store: Store, targets: SparseTargets) -> tuple[float, float, float | None]:
    """(records, probability listed for sure, expected squared error)."""
    records = float((targets.ids >= 0).sum(-1).double().mean())
    codec = store.manifest.codec
    if not isinstance(codec, Sampled):
        return records, float(targets.probs.double().sum(-1).mean()), None
    # A sampled token weighs tau or less: with weight w of a tail of probability r, Σ (w - p)² p / w is w · r but for what is smaller.
    is_tail = (targets.ids >= 0) & (targets.probs < codec.tau * (1 - 1e-6))
    weights = targets.probs.double() * is_tail
    error = float(weights.square().sum(-1).mean())
    return records, float(1 - weights.sum(-1).mean()), error
