"""Does the student's attention stand the positions of a text to each other as the teacher's does?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.errors import LossError
from potstill.losses.hidden import check_pairs, wide
from potstill.losses.relations import Comparison, Relation, relation_distance
from potstill.types import AttentionKey, AttentionPart

# attention: queries beside keys, as the model multiplies them. query, key, value: each beside itself, before rotary embeddings.
RelationName = Literal["attention", "query", "key", "value"]
_PARTS: dict[RelationName, tuple[AttentionPart, ...]] = {
    "attention": ("asked", "offered"),
    "query": ("queries",),
    "key": ("keys",),
    "value": ("values",),
}
Parts = Mapping[AttentionKey, Tensor]


@dataclass(frozen=True)
class AttentionMapLoss:
    """γ · the mean over pairs of layers and over heads of a square distance between attention maps, a position (TinyBERT, Jiao et al.
    2020, eq. 7).

    pairs       (student layer, teacher layer), from 0
    weight      γ
    comparison  scores: what goes into the softmax (TinyBERT's choice). probabilities: what comes out. A mean over what a position sees
    causal      whether a position sees itself and those before it only

    Scores are products of queries and keys as the model multiplies them, rotary embeddings included; windows and soft-capping are left
    out. Student and teacher need the same number of query heads.
    """

    pairs: tuple[tuple[int, int], ...]
    causal: bool
    weight: float = 1.0
    comparison: Literal["scores", "probabilities"] = "scores"

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.weight)

    @property
    def name(self) -> str:
        """Among the parts of a step."""
        return "attention"

    @property
    def student_attention(self) -> tuple[AttentionKey, ...]:
        """What is looked at of the student."""
        return tuple(_keys([one for one, _ in self.pairs], ["attention"]))

    @property
    def teacher_attention(self) -> tuple[AttentionKey, ...]:
        """What is looked at of the teacher."""
        return tuple(_keys([other for _, other in self.pairs], ["attention"]))

    def __call__(self, student: Parts, teacher: Parts, contexts: Int[Tensor, " contexts"]) -> Float[Tensor, ""]:
        """The sum over positions, without γ. LossError where heads differ in number, or there is nothing to compare."""
        found = []
        for one, other in self.pairs:
            ours, theirs = _relation(student, "attention", one, None), _relation(teacher, "attention", other, None)
            found.append(_distance(ours, theirs, contexts, self.comparison, "attention", self.causal))
        return torch.stack(found).mean()


@dataclass(frozen=True)
class AttentionRelationLoss:
    """γ · the sum over relations of the mean over pairs of layers and over heads of KL(teacher ‖ student), a position.

    pairs      (student layer, teacher layer), from 0; MiniLM takes one pair, the last layers or a teacher's upper one
    weight     γ
    relations  ("attention", "value") is MiniLM (Wang et al. 2020, eq. 8), ("query", "key", "value") MiniLMv2 (Wang et al. 2021, eq. 6)
    heads      into so many relation heads query, key and value are divided anew, so that the models' own numbers may differ; None: each
               model's own
    causal     whether a position stands to itself and those before it only

    A relation is softmax(x xᵀ / √channels) of a context. Queries, keys and values are the projections, before rotary embeddings and
    norms; only "attention" is what the model multiplies. Windows and soft-capping are left out.
    """

    pairs: tuple[tuple[int, int], ...]
    causal: bool
    weight: float = 1.0
    relations: tuple[RelationName, ...] = ("query", "key", "value")
    heads: int | None = None

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.weight)
        if not self.relations or len(set(self.relations)) != len(self.relations):
            raise LossError(f"relations are some of {', '.join(_PARTS)}, each once, found {list(self.relations)}")
        if self.heads is not None and self.heads < 1:
            raise LossError(f"relation heads are at least 1, found {self.heads}")

    @property
    def name(self) -> str:
        """Among the parts of a step."""
        return "attention"

    @property
    def student_attention(self) -> tuple[AttentionKey, ...]:
        """What is looked at of the student."""
        return tuple(_keys([one for one, _ in self.pairs], self.relations))

    @property
    def teacher_attention(self) -> tuple[AttentionKey, ...]:
        """What is looked at of the teacher."""
        return tuple(_keys([other for _, other in self.pairs], self.relations))

    def __call__(self, student: Parts, teacher: Parts, contexts: Int[Tensor, " contexts"]) -> Float[Tensor, ""]:
        """The sum over positions, without γ. LossError where heads don't fit, or there is nothing to compare."""
        found = []
        for relation in self.relations:
            for one, other in self.pairs:
                ours, theirs = (
                    _relation(parts, relation, layer, self.heads) for parts, layer in ((student, one), (teacher, other))
                )
                found.append(_distance(ours, theirs, contexts, "kl", relation, self.causal))
        return torch.stack(found).sum() / len(self.pairs)


def _keys(layers: list[int], relations: list[RelationName] | tuple[RelationName, ...]) -> list[AttentionKey]:
    parts: list[AttentionPart] = [part for relation in relations for part in _PARTS[relation]]
    return [(part, layer) for layer in sorted(set(layers)) for part in parts]


def _relation(parts: Parts, name: RelationName, layer: int, heads: int | None) -> Relation:
    found = []
    for part in _PARTS[name]:
        if (part, layer) not in parts:
            raise LossError(
                f"the {part} of layer {layer} are needed, and there are none: stored labels have none, use a live teacher"
            )
        found.append(wide(parts[part, layer]))
    if name == "attention":
        asked, offered = found
        # Some query heads share one head of keys.
        return Relation(asked, offered.repeat_interleave(asked.shape[1] // offered.shape[1], 1))
    (vectors,) = found
    if heads is not None:
        width = vectors.shape[1] * vectors.shape[2]
        if width % heads:
            raise LossError(
                f"{width} channels of the {_PARTS[name][0]} can't be divided into {heads} relation heads: choose a divisor of what both "
                "models have"
            )
        vectors = vectors.reshape(len(vectors), heads, width // heads)
    return Relation(vectors, vectors, vectors.shape[-1] ** -0.5)


def _distance(
    ours: Relation, theirs: Relation, contexts: Tensor, comparison: Comparison, name: RelationName, causal: bool
) -> Tensor:
    if ours.left.shape[1] != theirs.left.shape[1]:
        hint = (
            'compare "query", "key" and "value" with a number of relation heads instead'
            if name == "attention"
            else "say how many relation heads (heads)"
        )
        raise LossError(
            f"{ours.left.shape[1]} heads of the student's {name} can't be compared with {theirs.left.shape[1]} of the teacher's: {hint}"
        )
    return relation_distance(ours, theirs, contexts, comparison, causal=causal)
