"""The nouns that travel between the rooms. No behaviour lives here but what follows from a noun's own definition.

One rule holds everywhere: **position t is the prediction made after token t**. The shift between tokens read and tokens
to predict happens once, where a Batch is made. Weight 0 means "not learned from" (padding, prompt); there is no -100 and
no second mask anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# In place of a layer's number: what goes into the first layer.
EMBEDDINGS = -1

# queries, keys, values: as projected, before rotary embeddings and norms. asked, offered: queries and keys as attention multiplies them,
# the factor on their products in `asked`.
AttentionPart = Literal["queries", "keys", "values", "asked", "offered"]
AttentionKey = tuple[AttentionPart, int]


@dataclass(frozen=True)
class Batch:
    """Tokens read, tokens to predict, and how much each prediction counts.

    inputs     token ids read
    targets    the token to predict after each input
    weights    how much each prediction counts; 0 = padding or prompt
    documents  which document of the corpus each position belongs to; -1 = padding
    positions  where in its context each position stands: a 0 starts a new context, which sees nothing before it.
               Several contexts may share a row (packing), also several windows of one long document.
    offsets    where in its document each position stands: the prediction made after the document's token of that number
    """

    inputs: Int[Tensor, "rows width"]
    targets: Int[Tensor, "rows width"]
    weights: Float[Tensor, "rows width"]
    documents: Int[Tensor, "rows width"]
    positions: Int[Tensor, "rows width"]
    offsets: Int[Tensor, "rows width"]

    @cached_property
    def counted(self) -> Bool[Tensor, "rows width"]:
        """Where a prediction counts. Soft targets and student rows are listed in this mask's reading order."""
        return self.weights > 0

    @property
    def weight(self) -> Float[Tensor, ""]:
        """The sum of all weights: what a summed loss is to be divided by."""
        return self.weights.sum()

    @property
    def contexts(self) -> Int[Tensor, " contexts"]:
        """How many positions each context has, in reading order, padding left out."""
        starts = self.positions == 0
        starts[:, 0] = True
        number = starts.flatten().cumsum(0)[(self.documents >= 0).flatten()]
        return number.unique_consecutive(return_counts=True)[1]

    def rows(self, start: int, stop: int) -> Batch:
        """The rows [start, stop) alone."""
        return Batch(*(getattr(self, one.name)[start:stop] for one in fields(self)))

    def split(self, rows: int) -> Iterator[Batch]:
        """Micro-batches of at most so many rows."""
        for start in range(0, len(self.inputs), rows):
            yield self.rows(start, start + rows)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, one.name).to(device) for one in fields(self)))


@dataclass(frozen=True)
class Head:
    """From hidden states to logits: `softcap * tanh(scale * (rows @ weight.T + bias) / softcap)`, the first `size` of them.

    The scale is Cohere's logit_scale or the inverse of Granite's logits_scaling, the soft-capping Gemma 2's. Rows of the
    weight at or beyond `size` are padding of the vocabulary: they get no probability, in training as in marking.
    """

    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None
    scale: float = 1.0
    softcap: float | None = None
    size: int | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens get a probability."""
        return self.weight.shape[0] if self.size is None else self.size

    def sliced_to(self, size: int) -> Head:
        """The same head over the first `size` tokens only."""
        return Head(self.weight, self.bias, self.scale, self.softcap, size)

    def logits(self, rows: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows tokens"]:
        """Logits in the matmul's dtype for the matmul, fp32 (or fp64) from there on."""
        weight = self.weight[: self.num_tokens]
        logits = rows.to(weight.dtype) @ weight.T
        return self.shape(logits)

    def shape(self, products: Float[Tensor, "*rows tokens"]) -> Float[Tensor, "*rows tokens"]:
        """What happens to `rows @ weight.T` before it is a logit: bias, scale, soft-capping; at least fp32."""
        logits = products if products.dtype == torch.float64 else products.float()
        if self.bias is not None:
            logits = logits + self.bias[: self.num_tokens].to(logits.dtype)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


@dataclass(frozen=True)
class HiddenStates:
    """What a forward pass gives: one row of the last hidden state a counted prediction. Logits exist for a chunk at a time.

    layers     what some layers put out, by number, at every position that is not padding [positions, channels]
    attention  what the attention of some layers works with, at the same positions [positions, heads, channels]
    """

    rows: Float[Tensor, "predictions width"]
    head: Head
    layers: Mapping[int, Float[Tensor, "positions channels"]] = field(default_factory=dict)
    attention: Mapping[AttentionKey, Float[Tensor, "positions _ _"]] = field(default_factory=dict)


@dataclass(frozen=True)
class DenseTargets:
    """The teacher's whole distribution, as its hidden states and its head; and what some of its layers put out, as in HiddenStates."""

    rows: Float[Tensor, "predictions width"]
    head: Head
    layers: Mapping[int, Float[Tensor, "positions channels"]] = field(default_factory=dict)
    attention: Mapping[AttentionKey, Float[Tensor, "positions _ _"]] = field(default_factory=dict)


@dataclass(frozen=True)
class SparseTargets:
    """The teacher's distribution on a few tokens a prediction.

    ids          token ids, -1 in unused slots
    probs        their probabilities (weights, if sampled), 0 in unused slots
    rest         the probability of "any other token", an event of its own (top-k); None when the tokens are an unbiased
                 sample of the whole distribution, whose weights sum to 1 and leave no rest
    temperature  of the softmax these probabilities come from
    """

    ids: Int[Tensor, "predictions slots"]
    probs: Float[Tensor, "predictions slots"]
    rest: Float[Tensor, " predictions"] | None
    temperature: float = 1.0

    @property
    def is_sampled(self) -> bool:
        """Whether this is an unbiased sample rather than a partition into events."""
        return self.rest is None


@dataclass(frozen=True)
class MixedTargets:
    """What several teachers believe of the same predictions, as one distribution.

    parts    what each of them believes
    weights  how much each counts at each prediction; a row sums to 1
    of       "probabilities": Σ w·p, their arithmetic mean. "logits": softmax(Σ w·z / T), their geometric one
    """

    parts: tuple[DenseTargets | SparseTargets, ...]
    weights: Float[Tensor, "predictions teachers"]
    of: Literal["probabilities", "logits"] = "probabilities"


@dataclass(frozen=True)
class TranslatedTargets:
    """What a teacher of another tokenizer believes, in its own tokens, at spans of text whose ends are token boundaries of both.

    rows, head     the teacher's hidden states at its predictions of the spans, span by span, and its head
    tokens         its tokens that came next
    spans          the number of the span that each belongs to, ascending from 0
    student_spans  that of each of the student's counted predictions, ascending; -1: in none
    matches        for each token of the teacher's the student's token of the same bytes; -1: there is none
    """

    rows: Float[Tensor, "marks width"]
    head: Head
    tokens: Int[Tensor, " marks"]
    spans: Int[Tensor, " marks"]
    student_spans: Int[Tensor, " predictions"]
    matches: Int[Tensor, " teacher_tokens"]


SoftTargets = DenseTargets | SparseTargets | MixedTargets
# Soft targets are over the student's tokens; translated ones are not, and have losses of their own.
Labels = SoftTargets | TranslatedTargets


@runtime_checkable
class Teacher(Protocol):
    """Whoever marks text."""

    @property
    def num_tokens(self) -> int:
        """How many tokens it gives probabilities to."""
        ...

    def label(self, batch: Batch) -> Labels:
        """What it believes at each counted prediction of the batch, in reading order. Never carries a gradient."""
        ...


@dataclass(frozen=True)
class Loss:
    """A **sum** over predictions, the weight it was summed over, and its named parts (sums too, without gradient).

    Nothing here is a mean: whoever owns the optimizer step divides once by the weight of the whole step, so that
    accumulation, packing and the number of processes change nothing.
    """

    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Score:
    """A measured quality with its 95 % confidence interval over n documents."""

    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Lineage:
    """Which teacher part each student part came from. `layers[i]` is the teacher layer the student's layer i was copied from."""

    layers: tuple[int, ...]
    source: str
