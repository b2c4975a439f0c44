"""What is left of a teacher when something is taken away: its likeliest token alone, or its probabilities on wrong tokens.

Beside smoothing.py, which leaves the uncertainty alone. A student that learns as much learned nothing from what was taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from potstill.errors import LossError
from potstill.losses.mixing import settled
from potstill.losses.support import logits_of, over_students_tokens
from potstill.types import Batch, Labels, MixedTargets, SoftTargets, SparseTargets, Teacher


@dataclass(frozen=True)
class ArgmaxTeacher:
    """The teacher's likeliest token as a hard label: what it knows of the right answer and nothing of the others.

    `temperature`: what its labels say they are of, so that they take a teacher's place in a loss.
    """

    teacher: Teacher
    temperature: float = 1.0

    @property
    def num_tokens(self) -> int:
        """As many as the teacher's."""
        return self.teacher.num_tokens

    def label(self, batch: Batch) -> SparseTargets:
        """One token a counted prediction, of probability 1. LossError where the likeliest token is not known."""
        targets = over_students_tokens(self.teacher.label(batch))
        if (listed := _listed(targets, self.temperature, "the likeliest token")) is not None:
            likeliest = listed.ids.gather(1, listed.probs.argmax(1, keepdim=True))
        else:
            rows = [logits.argmax(1, keepdim=True) for logits in logits_of(targets, self.temperature)]
            likeliest = torch.cat(rows) if rows else torch.zeros(0, 1, dtype=torch.int64)
        ones = torch.ones(likeliest.shape, device=likeliest.device)
        return SparseTargets(likeliest, ones, torch.zeros_like(ones[:, 0]), self.temperature)


@dataclass(frozen=True)
class PermutedTeacher:
    """Permuted dark knowledge (DKPP, born-again networks: Furlanello et al. 2018, arXiv:1805.04770, section 3.2).

    Each prediction keeps its likeliest token with its probability; the probabilities of all others stay as they are and go to other
    tokens. How sure the teacher is, and of what, is left; what it takes for similar is not. Which token gets which is drawn by (seed,
    document, offset): the same in every batch and epoch. The draw is an affine map of the other tokens' numbers, under which each of
    these is as likely to get a probability as any other; that is all that learning from expectations can tell of a permutation.

    Of whole distributions at `temperature`, or of the likeliest tokens with their rest, which stays the rest: then the listed tokens
    are others. Every token of the vocabulary is listed, 12 bytes each: with a large vocabulary a pass should be of few rows.
    """

    teacher: Teacher
    seed: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.num_tokens < 3:
            raise LossError(
                f"a teacher of {self.num_tokens} classes has one that is not the likeliest, and nothing to permute: leave this control out"
            )

    @property
    def num_tokens(self) -> int:
        """As many as the teacher's."""
        return self.teacher.num_tokens

    def label(self, batch: Batch) -> SparseTargets:
        """The counted predictions' probabilities on other tokens. LossError for samples, whose likeliest token is not known."""
        targets = over_students_tokens(self.teacher.label(batch))
        listed = _listed(targets, self.temperature, "a permutation of all but the likeliest token") or self._all(
            targets
        )
        ids, probs = listed.ids, listed.probs
        keys = _keys(self.seed, batch.documents[batch.counted], batch.offsets[batch.counted]).to(ids.device)
        likeliest = ids.gather(1, probs.argmax(1, keepdim=True))
        moved = permuted(ids, likeliest, keys, self.num_tokens).masked_fill(ids < 0, -1)
        return replace(listed, ids=moved)

    def _all(self, targets: SoftTargets) -> SparseTargets:
        rows = [(logits / self.temperature).softmax(-1) for logits in logits_of(targets, self.temperature)]
        probs = torch.cat(rows) if rows else torch.zeros(0, self.num_tokens)
        ids = torch.arange(self.num_tokens, device=probs.device).expand(probs.shape)
        return SparseTargets(ids, probs, probs.new_zeros(len(probs)), self.temperature)


@dataclass(frozen=True)
class PartTeacher:
    """Who marks a part of a text as it marks the whole: document d of the part is `documents[d]` of the whole."""

    teacher: Teacher
    documents: Int[Tensor, " documents"]

    @property
    def num_tokens(self) -> int:
        """As many as the teacher's."""
        return self.teacher.num_tokens

    def label(self, batch: Batch) -> Labels:
        """What the teacher says of these documents of the whole."""
        numbers = self.documents.to(batch.documents.device)[batch.documents.clamp_min(0)]
        return self.teacher.label(replace(batch, documents=numbers.masked_fill(batch.documents < 0, -1)))


def permuted(
    ids: Int[Tensor, "rows slots"], fixed: Int[Tensor, "rows 1"], keys: Int[Tensor, " rows"], num_tokens: int
) -> Int[Tensor, "rows slots"]:
    """Where each token goes in its row's permutation, which leaves the `fixed` one where it is."""
    others = num_tokens - 1
    factors = _coprimes(others).to(ids.device)
    factor = factors[_within(keys, len(factors))].unsqueeze(1)
    shift = _within(_mixed(keys), others).unsqueeze(1)
    place = ids - (ids > fixed).long()
    place = (factor * place + shift) % others
    return torch.where(ids == fixed, ids, place + (place >= fixed).long())


def _listed(targets: SoftTargets, temperature: float, what: str) -> SparseTargets | None:
    """Listed tokens with their rest; None for whole distributions."""
    listed = settled(targets, temperature)
    if not isinstance(listed, SparseTargets):
        return None
    if listed.is_sampled or isinstance(targets, MixedTargets):
        kind = "samples (tier sampled)" if listed.is_sampled else "listed tokens of several teachers"
        raise LossError(f"{what} is not defined for {kind}: use a live teacher, or labels of tier topk or hidden")
    if listed.temperature != temperature:
        raise LossError(
            f"these soft labels were taken at temperature {listed.temperature:g} and {temperature:g} is asked for: set it to theirs"
        )
    return listed


@lru_cache(maxsize=4)
def _coprimes(number: int) -> Int[Tensor, " factors"]:
    return torch.tensor([factor for factor in range(1, number + 1) if math.gcd(factor, number) == 1])


def _keys(seed: int, documents: Int[Tensor, " rows"], offsets: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    start = _mixed(torch.tensor([seed], device=documents.device))
    return _mixed(_mixed(start + documents) + offsets)


def _within(keys: Int[Tensor, " rows"], number: int) -> Int[Tensor, " rows"]:
    return (keys & (2**62 - 1)) % number


def _mixed(keys: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """SplitMix64's mixing of bits (Steele et al. 2014), in wrapping int64."""
    keys = keys + _signed(0x9E3779B97F4A7C15)
    keys = (keys ^ _shifted(keys, 30)) * _signed(0xBF58476D1CE4E5B9)
    keys = (keys ^ _shifted(keys, 27)) * _signed(0x94D049BB133111EB)
    return keys ^ _shifted(keys, 31)


def _shifted(keys: Int[Tensor, " rows"], bits: int) -> Int[Tensor, " rows"]:
    """To the right, zeros coming in."""
    return (keys >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
