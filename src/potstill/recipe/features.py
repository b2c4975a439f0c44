"""Tables of what is compared beside the labels: hidden states, embeddings, attention; and how they are balanced."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.recipe.table import Layer, Table, mistake, needs

Weight = Annotated[float, Field(gt=0.0)]
LayerMap = Annotated[
    Literal["last", "uniform", "lineage"]
    | Annotated[int, Field(ge=1)]
    | Annotated[tuple[Annotated[tuple[Layer, Layer], Field(strict=False)], ...], Field(strict=False, min_length=1)],
    needs(
        '"last", "uniform", "lineage", a number of last layers, or pairs as [[0, 1], [2, 5]] of layers of student and teacher (from 0)'
    ),
]


class HiddenTable(Table):
    """What is added to the loss where hidden states are to be the teacher's: weight · a distance, a position."""

    kind: Literal["cosine", "mse", "cka"] = "cosine"
    """cosine: 1 - cos. mse: the mean square of the difference. cka: 1 - centred kernel alignment of each context, for any two widths."""
    weight: Weight = 1.0
    """Beside the loss of the labels, whose weight is 1."""
    layers: LayerMap = "last"
    """last: of both. uniform: ends of equal blocks. lineage: the last each stands for. 3: the last 3 of both. Or [student, teacher]s."""
    projection: Literal["none", "shared", "each"] = "none"
    """A linear map to the teacher's width, learned beside the student and left behind: none, one for all pairs, one for each."""
    standardised: bool = False
    """Both states get mean 0 and variance 1 at each position first: huge channels count for less."""

    @model_validator(mode="after")
    def _project_what_needs_it(self) -> HiddenTable:
        if self.kind == "cka" and self.projection != "none":
            raise mistake('kind = "cka" compares states of any two widths by itself: leave `projection` out')
        return self


class EmbeddingsTable(Table):
    """What is added where the input of the first layer is to be the teacher's: weight · a distance, a position (TinyBERT)."""

    kind: Literal["cosine", "mse"] = "mse"
    """cosine: 1 - cos. mse: the mean square of the difference."""
    weight: Weight = 1.0
    """Beside the loss of the labels, whose weight is 1."""
    projection: bool = False
    """A linear map of its own to the teacher's width, learned beside the student and left behind."""


class MapsTable(Table):
    """What is added where attention maps are to be the teacher's (TinyBERT). Both need as many query heads."""

    kind: Literal["maps"]
    """maps: the mean square of the difference of attention maps."""
    weight: Weight = 1.0
    """Beside the loss of the labels, whose weight is 1."""
    layers: LayerMap = "uniform"
    """uniform: ends of equal blocks. last: of both. lineage: the last each stands for. 3: the last 3 of both. Or [student, teacher]s."""
    compare: Literal["scores", "probabilities"] = "scores"
    """Before or behind the softmax."""


class RelationsTable(Table):
    """What is added where relations of queries, keys and values are to be the teacher's (MiniLM): weight · their KL, a position."""

    kind: Literal["relations"]
    """relations: KL(teacher ‖ student) of how positions stand to each other."""
    weight: Weight = 1.0
    """Beside the loss of the labels, whose weight is 1."""
    layers: LayerMap = "last"
    """last: of both. Or a pair with one of the teacher's upper layers: [[5, 20]]; or as with hidden states."""
    relations: Annotated[
        tuple[Literal["attention", "query", "key", "value"], ...], Field(strict=False, min_length=1)
    ] = ("query", "key", "value")
    """MiniLMv2's by default; ["attention", "value"] are those of the first MiniLM, for as many heads in both."""
    heads: Annotated[int, Field(ge=1)] | None = None
    """Relation heads that query, key and value are divided into: the models' own numbers may differ then. Left out: their own."""


AttentionTable = Annotated[MapsTable | RelationsTable, Field(discriminator="kind")]


class BalanceTable(Table):
    """How what is compared beside the labels is balanced with them."""

    kind: Literal["fixed", "dynamic"] = "fixed"
    """fixed: by the weights. dynamic: each is scaled to the size of the loss of the labels first, step by step (Minitron)."""
    shares_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two measurements of whose gradient is how large."""
