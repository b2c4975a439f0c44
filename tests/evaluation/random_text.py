"""Corpora of random tokens, and measurements written down by hand."""

from collections.abc import Sequence

import numpy as np
from tiny_models import VOCABULARY

from potstill.data import TokenCorpus
from potstill.evaluation import Measurement


def random_corpus(
    sizes: Sequence[int], *, samples: Sequence[int] = (), seed: int = 0, tokens: int = VOCABULARY
) -> TokenCorpus:
    """Documents of so many tokens each; a few targets don't count; token t stands for 1 + t % 4 bytes."""
    draw = np.random.default_rng(seed)
    offsets = np.cumsum([0, *sizes])
    weights = (draw.random(offsets[-1]) > 0.2).astype(np.float32)
    weights[offsets[:-1][np.array(sizes) > 0]] = 0
    return TokenCorpus(
        ids=draw.integers(0, tokens, offsets[-1]).astype(np.uint32),
        weights=weights,
        offsets=offsets.astype(np.int64),
        keys=tuple(f"text {d}" for d in range(len(sizes))),
        is_sample=np.isin(np.arange(len(sizes)), samples),
        token_bytes=(1 + np.arange(tokens) % 4).astype(np.uint16),
    )


def written_down(**sums: Sequence[float] | np.ndarray) -> Measurement:
    """A measurement with these sums; without a teacher unless told, all predictions in the uppermost bin."""
    found = {name: np.array(values, dtype=np.float64) for name, values in sums.items()}
    documents = len(found["tokens"])
    zeros, nothing, bins = np.zeros(documents), np.full(documents, np.nan), np.zeros((documents, 15))
    count = bins.copy()
    count[:, -1] = found["tokens"]
    rest = {"bytes": zeros + 1, "nll": zeros, "hits": zeros, "kl": nothing, "agreements": nothing}
    rest |= {"confidence": bins, "right": bins, "count": count}
    return Measurement(**(rest | found))
