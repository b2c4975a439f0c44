"""One pass over held-out text: what a model did on each document, as sums, so that every score and interval can be made later."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data import TokenCorpus, ordered_batches
from potstill.errors import DataError, NotFiniteError
from potstill.models import hidden_states
from potstill.types import Batch, DenseTargets, HiddenStates, Teacher

NUM_BINS = 15
_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Measurement:
    """Sums over the counted predictions of each document, in float64 [documents].

    tokens      how many predictions
    bytes       of text under them
    nll         nats of surprise at the true tokens
    hits        predictions whose likeliest token is the true one
    kl          nats of KL(teacher ‖ model) at temperature 1; NaN without a teacher
    agreements  predictions whose likeliest token is the teacher's; NaN without a teacher
    confidence, right, count   [documents, 15]: by the probability of the likeliest token in 15 bins of equal width, the sum of
                that probability, the hits, and the predictions
    """

    tokens: NDArray[np.float64]
    bytes: NDArray[np.float64]
    nll: NDArray[np.float64]
    hits: NDArray[np.float64]
    kl: NDArray[np.float64]
    agreements: NDArray[np.float64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]
    count: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tokens)

    def save(self, path: Path) -> None:
        """Write the arrays as .npz, whole or not at all."""
        part = path.with_suffix(".part.npz")
        np.savez(part, **{field.name: getattr(self, field.name) for field in fields(self)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Measurement:
        """A saved measurement; DataError when it can't be read."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} holds no measurement ({error}): delete it and run again") from error


def measure(
    model: PreTrainedModel,
    corpus: TokenCorpus,
    *,
    length: int,
    rows: int = 16,
    teacher: Teacher | None = None,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Measurement:
    """Measure a model on a corpus in contexts of `length` tokens, beside a teacher if there is one.

    `size` slices the vocabulary as in training. Logits exist for a chunk of rows at a time, in fp32; sums are float64. Raises
    NotFiniteError when the model's predictions are not numbers.
    """
    sums = {name: np.zeros(len(corpus)) for name in ("tokens", "nll", "hits", "kl", "agreements")}
    bins = {name: np.zeros((len(corpus), NUM_BINS)) for name in ("confidence", "right", "count")}
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for batch in ordered_batches(corpus, length=length, rows=rows):
            batch = batch.to(device)
            targets = None if teacher is None else teacher.label(batch)
            if not (targets is None or isinstance(targets, DenseTargets)):
                raise DataError(
                    "agreement with a teacher needs its whole distribution: measure against the live teacher"
                )
            _add(sums, bins, batch, hidden_states(model, batch, size=size), targets)
    model.train(was_training)
    if not np.isfinite(sums["nll"]).all():
        raise NotFiniteError(
            "the model's predictions are NaN or infinite on the held-out text: its training went wrong"
        )
    if teacher is None:
        sums["kl"][:], sums["agreements"][:] = np.nan, np.nan
    return Measurement(bytes=corpus.num_bytes.astype(np.float64), **sums, **bins)


def _add(
    sums: dict[str, NDArray[np.float64]],
    bins: dict[str, NDArray[np.float64]],
    batch: Batch,
    states: HiddenStates,
    targets: DenseTargets | None,
) -> None:
    tokens, documents = batch.targets[batch.counted], batch.documents[batch.counted].cpu().numpy()
    chunk = max(64, _CHUNK_BYTES // (4 * states.head.num_tokens))
    for start in range(0, len(tokens), chunk):
        here = slice(start, start + chunk)
        log_q = states.head.logits(states.rows[here]).log_softmax(-1)
        confidence, guess = log_q.max(-1)
        hits = guess == tokens[here]
        figures = {
            "tokens": torch.ones_like(confidence),
            "nll": -log_q.gather(-1, tokens[here, None]).squeeze(-1),
            "hits": hits,
        }
        if targets is not None:
            figures |= _beside(DenseTargets(targets.rows[here], targets.head), log_q, guess)
        of = documents[here]
        for name, values in figures.items():
            np.add.at(sums[name], of, values.double().cpu().numpy())
        share = confidence.exp().double().cpu().numpy()
        place = np.minimum((share * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        for name, values in (
            ("confidence", share),
            ("right", hits.double().cpu().numpy()),
            ("count", np.ones(len(of))),
        ):
            np.add.at(bins[name], (of, place), values)


def _beside(targets: DenseTargets, log_q: Float[Tensor, "rows tokens"], guess: Tensor) -> dict[str, Tensor]:
    log_p = targets.head.logits(targets.rows).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).nan_to_num(0.0).sum(-1)
    return {"kl": kl, "agreements": log_p.argmax(-1) == guess}
