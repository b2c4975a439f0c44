"""One pass over held-out text: what a model did on each document, as sums, so that every score and interval can be made later."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data import (
    Masking,
    TokenCorpus,
    check_learnable,
    classes_in_order,
    masked_in_order,
    ordered_batches,
)
from potstill.errors import DataError, ModelError, NotFiniteError, RunDirectoryError, VocabularyError
from potstill.losses import ForwardKL
from potstill.losses.mixing import mixed_logits
from potstill.losses.support import LOG_ZERO, over_students_tokens, rows_of
from potstill.models import Task, head_of, hidden_states, task_of
from potstill.models.asking import device_of, evaluating
from potstill.types import Batch, DenseTargets, Head, Labels, MixedTargets, SoftTargets, Teacher

NUM_BINS = 15
# Of fp32 logits in a chunk: on a CPU what stays in the cache (measured at 4,096 and 49,152 tokens: 64 MiB takes a third longer).
_CHUNK_BYTES = {"cpu": 8 * 2**20}
_CHUNK_BYTES_ELSEWHERE = 64 * 2**20
_LEAST_ROWS = 64

Sums = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Measurement:
    """Sums over the counted predictions of each document, in float64 [documents].

    A prediction counts when its weight is not 0, and then once. A document cut into windows is one document still; one that
    has no counted prediction is a row of zeros.

    tokens      how many predictions
    bytes       of UTF-8 text under them
    nll         nats of surprise at the true tokens
    hits        predictions whose likeliest token is the true one
    kl          nats of KL(teacher ‖ model) at temperature 1; NaN without a teacher
    agreements  predictions whose likeliest token is the teacher's; NaN without a teacher
    confidence, right, count   [documents, 15]: by the probability of the likeliest token in 15 bins of equal width, [k/15, (k+1)/15),
                the sum of that probability, the hits, and the predictions. Equal width, because the edges of bins of equal
                mass would depend on the model and be known only after a first pass.
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

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher stood beside the model."""
        return not np.isnan(self.kl).any()

    def save(self, path: Path) -> None:
        """Write the arrays as .npz, whole or not at all; RunDirectoryError when the file can't be written."""
        with written_whole(path) as part:
            np.savez(part, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Measurement:
        """A saved measurement; DataError when it can't be read."""
        try:
            # np.load leaves a file open that it can't read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, SyntaxError, TokenError, zipfile.BadZipFile) as error:
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
    masking: Masking | None = None,
) -> Measurement:
    """Measure a model on a corpus in contexts of `length` tokens, beside a teacher if there is one.

    A masked language model is measured on tokens that `masking` hides, the same for all models; a classifier on one prediction a text.

    `size` slices the vocabulary as in training; with a teacher it is `teacher.num_tokens`. `dtype` is autocast's, for model
    and teacher alike; float32 leaves both in their own. Logits exist for a chunk of rows at a time, in fp32; sums are float64.
    The model is left as it was. Raises DataError when nothing counts, VocabularyError when text, teacher and model don't
    share a vocabulary, NotFiniteError when the model's predictions are not numbers.
    """
    task = task_of(model)
    if task == "causal":
        check_learnable(corpus)
    _check_vocabulary(model, corpus, teacher, size)
    names = ("tokens", "bytes", "nll", "hits", *(() if teacher is None else ("kl", "agreements")))
    sums: Sums = {name: np.zeros(len(corpus)) for name in names}
    sums |= {name: np.zeros((len(corpus), NUM_BINS)) for name in ("confidence", "right", "count")}
    device = device_of(model)
    with evaluating(model), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for batch in batches_in_order(task, corpus, length, rows, masking):
            batch = batch.to(device)
            targets = None if teacher is None else _dense(teacher.label(batch))
            states = hidden_states(model, batch, size=size)
            _add(sums, corpus, batch, DenseTargets(states.rows, states.head), targets)
    nothing = np.full(len(corpus), np.nan)
    return Measurement(**{"kl": nothing, "agreements": nothing, **sums})


def measure_teacher(
    marker: Teacher,
    corpus: TokenCorpus,
    *,
    length: int,
    rows: int = 16,
    teacher: Teacher | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Measurement:
    """The same of whoever marks text with whole distributions: several models together, say. For text that goes on, token by token."""
    check_learnable(corpus)
    names = ("tokens", "bytes", "nll", "hits", *(() if teacher is None else ("kl", "agreements")))
    sums: Sums = {name: np.zeros(len(corpus)) for name in names}
    sums |= {name: np.zeros((len(corpus), NUM_BINS)) for name in ("confidence", "right", "count")}
    kind = torch.device(device).type
    with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
        for batch in ordered_batches(corpus, length=length, rows=rows):
            batch = batch.to(device)
            targets = None if teacher is None else _dense(teacher.label(batch))
            _add(sums, corpus, batch, over_students_tokens(marker.label(batch)), targets)
    nothing = np.full(len(corpus), np.nan)
    return Measurement(**{"kl": nothing, "agreements": nothing, **sums})


def batches_in_order(
    task: Task, corpus: TokenCorpus, length: int, rows: int, masking: Masking | None
) -> Iterator[Batch]:
    """One pass over the corpus as models of this kind are measured on it."""
    match task:
        case "causal":
            return ordered_batches(corpus, length=length, rows=rows)
        case "masked":
            if masking is None:
                raise DataError("a masked language model is measured on hidden tokens: say which (masking)")
            return masked_in_order(corpus, masking, length=length, rows=rows)
        case "classes":
            return classes_in_order(corpus, length=length, rows=rows)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path`, of the same ending, that takes its place at the end; RunDirectoryError when it can't be written."""
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise RunDirectoryError(
            f"can't write {path}: {error.strerror or error}. Free some space or choose another folder, then start again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check_vocabulary(model: PreTrainedModel, corpus: TokenCorpus, teacher: Teacher | None, size: int | None) -> None:
    rows = head_of(model).num_tokens
    num_tokens = rows if size is None else size
    if not 0 < num_tokens <= rows:
        raise ModelError(f"the model's head has {rows:,} rows, so it can't predict {num_tokens:,} tokens")
    if teacher is not None and teacher.num_tokens != num_tokens:
        raise VocabularyError(
            f"the teacher gives {teacher.num_tokens:,} tokens a probability and the model {num_tokens:,}: measure with size = "
            f"{min(teacher.num_tokens, rows):,} and a teacher of that size"
        )
    if task_of(model) == "classes":
        if len(corpus) and int(corpus.labels.max()) >= num_tokens:
            raise VocabularyError(
                f"the text has class {int(corpus.labels.max())}, and the model has {num_tokens} classes"
            )
        return
    largest = int(corpus.ids[corpus.weights > 0].max())
    if largest >= num_tokens:
        raise VocabularyError(
            f"the text has the token id {largest:,} and only the first {num_tokens:,} tokens get a probability: tokenise it "
            "with the model's own tokenizer"
        )


def _dense(targets: Labels) -> DenseTargets:
    if not isinstance(targets, DenseTargets):
        raise DataError("agreement with a teacher needs its whole distribution: measure against the live teacher")
    return targets


def _add(sums: Sums, corpus: TokenCorpus, batch: Batch, said: SoftTargets, targets: DenseTargets | None) -> None:
    tokens, documents = batch.targets[batch.counted], batch.documents[batch.counted].cpu().numpy()
    head, teacher_head = _head_of(said), None if targets is None else _cast(targets.head)
    chunk = _chunk_rows(head)
    # A class stands for no bytes of text.
    sizes = (np.zeros(head.num_tokens) if (corpus.labels >= 0).all() else corpus.token_bytes).astype(np.float64)
    for start in range(0, len(tokens), chunk):
        here = slice(start, start + chunk)
        figures, guess, log_q = _alone(_logits(said, head, here), tokens[here])
        if not figures["nll"].isfinite().all():
            raise NotFiniteError(_not_finite(corpus, documents[here][~figures["nll"].isfinite().cpu().numpy()]))
        if targets is not None and teacher_head is not None:
            figures |= _beside(teacher_head.logits(targets.rows[here]), log_q, guess)
        found = {name: values.cpu().double().numpy() for name, values in figures.items()}
        found["bytes"] = sizes[tokens[here].cpu().numpy()]
        _add_to_documents(sums, documents[here], found)


def _head_of(said: SoftTargets) -> Head:
    """Of a model, or of the first of several that say how many tokens there are."""
    if isinstance(said, MixedTargets):
        return next(_cast(part.head) for part in said.parts if isinstance(part, DenseTargets))
    return _cast(_dense(said).head)


def _logits(said: SoftTargets, head: Head, here: slice) -> Float[Tensor, "rows tokens"]:
    """Of a few rows; of a mixture, logits whose softmax it is."""
    if isinstance(said, MixedTargets):
        some = rows_of(said, here.start, here.stop)
        assert isinstance(some, MixedTargets)
        return mixed_logits(some, 1.0)
    return head.logits(_dense(said).rows[here])


def _alone(
    logits: Float[Tensor, "rows tokens"], tokens: Int[Tensor, " rows"]
) -> tuple[dict[str, Tensor], Int[Tensor, " rows"], Float[Tensor, "rows tokens"]]:
    """What the model did by itself on each row, its likeliest tokens, and log q."""
    log_q = logits.log_softmax(-1)
    likeliest, guess = log_q.max(-1)
    nll = -log_q.gather(-1, tokens[:, None]).squeeze(-1)
    figures = {"tokens": torch.ones_like(nll), "nll": nll, "hits": guess == tokens, "confidence": likeliest.exp()}
    return figures, guess, log_q


def _beside(
    teacher_logits: Float[Tensor, "rows tokens"], log_q: Float[Tensor, "rows tokens"], guess: Int[Tensor, " rows"]
) -> dict[str, Tensor]:
    """What the model did beside its teacher on each row. The teacher may be on another device."""
    log_p = teacher_logits.to(log_q).log_softmax(-1).clamp_min(LOG_ZERO)
    return {"kl": ForwardKL()(log_p, log_q), "agreements": log_p.argmax(-1) == guess}


def _add_to_documents(sums: Sums, documents: NDArray[np.int64], found: Mapping[str, NDArray[np.float64]]) -> None:
    for name, values in found.items():
        if name != "confidence":
            np.add.at(sums[name], documents, values)
    # A probability of 1 belongs to the last bin, and so does one that rounding made a little more.
    bins = np.minimum((found["confidence"] * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    for name, values in (("confidence", "confidence"), ("right", "hits"), ("count", "tokens")):
        np.add.at(sums[name], (documents, bins), found[values])


def _cast(head: Head) -> Head:
    """The head with its weight in autocast's dtype where that is on: cast once a batch, not once a chunk."""
    device = head.weight.device.type
    if not torch.is_autocast_enabled(device):
        return head
    return replace(head, weight=head.weight[: head.num_tokens].to(torch.get_autocast_dtype(device)))


def _chunk_rows(head: Head) -> int:
    chunk_bytes = _CHUNK_BYTES.get(head.weight.device.type, _CHUNK_BYTES_ELSEWHERE)
    return max(_LEAST_ROWS, chunk_bytes // (4 * head.num_tokens))


def _not_finite(corpus: TokenCorpus, documents: NDArray[np.int64]) -> str:
    return (
        f"the model's predictions are NaN or infinite, first in document {documents[0]} ({corpus.keys[documents[0]]}): its "
        "training went wrong, its weights are damaged, or its dtype is too small for it (float32 and bfloat16 are not)"
    )
