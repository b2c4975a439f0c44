"""Which held-out text is scored, when there is more of it than is asked for."""

from __future__ import annotations

import numpy as np

from potstill.data import TokenCorpus, place_of


def held_out_sample(held_out: TokenCorpus, tokens: int, length: int) -> TokenCorpus:
    """At most about `tokens` predictions of the held-out corpus: many documents rather than long ones.

    Documents are what intervals are made over, so each gives as many whole contexts from its beginning as there is room
    for, the same number for all; where one context of each is too much already, documents in the order of their hashes.
    The choice depends on the corpus and on these numbers alone.
    """
    sizes = np.maximum(np.diff(held_out.offsets) - 1, 0)
    everything = np.arange(len(held_out))
    if sizes.sum() <= tokens:
        return held_out.select(everything)
    if np.minimum(sizes, length).sum() > tokens:
        order = np.array(sorted(everything, key=lambda d: place_of(held_out.keys[d])))
        within = np.cumsum(np.minimum(sizes[order], length)) <= tokens
        within[0] = True
        return held_out.beginnings(length, np.sort(order[within]))
    contexts = 1
    while np.minimum(sizes, (contexts + 1) * length).sum() <= tokens:
        contexts += 1
    return held_out.beginnings(contexts * length, everything)
