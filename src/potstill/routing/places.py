"""Places in text as queries: an answer is the likeliest next token, and right where the text goes on with it."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data import TokenCorpus, ordered_batches
from potstill.errors import DataError, NotFiniteError
from potstill.models import hidden_states
from potstill.models.asking import device_of, evaluating
from potstill.routing.queries import LEAST_QUERIES, Scored
from potstill.routing.signals import TOP_LOGPROBS, Signals, TokenLogprobs, signals_of

_ROWS, _CHUNK = 16, 256


def scored_places(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    corpus: TokenCorpus,
    *,
    length: int,
    size: int,
    most: int = 3_000,
    seed: int = 0,
) -> Scored:
    """At most so many of the corpus's counted predictions, drawn at random, answered by both in contexts of `length` tokens.

    The first `size` tokens get a probability, as in training. DataError where there are fewer than 50 places.
    """
    counts, domains = [], list[str]()
    for batch in ordered_batches(corpus, length=length, rows=_ROWS):
        documents = batch.documents[batch.counted].tolist()
        counts.append(len(documents))
        domains += [corpus.domains[one] if corpus.domains else "" for one in documents]
    total = sum(counts)
    if total < LEAST_QUERIES:
        raise DataError(f"there are {total} places in the text, and routing needs {LEAST_QUERIES}: give more text")
    drawn = np.sort(np.random.default_rng(seed).permutation(total)[:most])
    bounds = np.searchsorted(drawn, np.cumsum([0, *counts]))
    places = [drawn[a:b] - first for a, b, first in zip(bounds, bounds[1:], np.cumsum([0, *counts]), strict=False)]
    theirs, _ = _answered(teacher, corpus, places, length, size, is_heard=False)
    ours, signals = _answered(student, corpus, places, length, size, is_heard=True)
    said = repr((drawn.tolist(), length, size)).encode() + corpus.ids.tobytes()
    return Scored(
        ours,
        theirs,
        tuple(signals),
        tuple(domains[at] for at in drawn),
        None,
        references=True,
        top_logprobs=TOP_LOGPROBS,
        fingerprint=blake2b(said, digest_size=16).hexdigest(),
    )


def _answered(
    model: PreTrainedModel, corpus: TokenCorpus, places: list[np.ndarray], length: int, size: int, *, is_heard: bool
) -> tuple[np.ndarray, list[Signals]]:
    """Whether the model's likeliest token is right at each place; and, if it is heard, how sure it is."""
    scores: list[float] = []
    signals: list[Signals] = []
    device = device_of(model)
    with evaluating(model):
        for batch, here in zip(ordered_batches(corpus, length=length, rows=_ROWS), places, strict=True):
            if not len(here):
                continue
            batch, at = batch.to(device), torch.from_numpy(here).to(device)
            states = hidden_states(model, batch, size=size)
            truth = batch.targets[batch.counted][at]
            for start in range(0, len(at), _CHUNK):
                log_p = states.head.logits(states.rows[at[start : start + _CHUNK]]).float().log_softmax(-1)
                top = log_p.topk(min(TOP_LOGPROBS, size), -1)
                if not top.values[:, 0].isfinite().all():
                    raise NotFiniteError("the model's logits are NaN or infinite: its weights are damaged")
                scores += (top.indices[:, 0] == truth[start : start + _CHUNK]).double().tolist()
                signals += _signals(top.values.cpu()) if is_heard else []
    return np.array(scores), signals


def _signals(top: Float[Tensor, "places listed"]) -> list[Signals]:
    return [signals_of([TokenLogprobs(row[0], tuple(row))]) for row in top.double().tolist()]
