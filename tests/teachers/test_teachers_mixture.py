"""Several teachers: who counts how much at which prediction, and who is asked about which document."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import batch_of, tiny_model

from potstill.errors import DataError, LossError, VocabularyError
from potstill.losses import SoftLabelLoss
from potstill.losses.mixing import mixed_logits
from potstill.teachers import (
    FakeTeacher,
    LiveTeacher,
    MixtureTeacher,
    RoutedTeacher,
    StoredTeacher,
    is_stored,
    stored_among,
)
from potstill.types import Batch, DenseTargets, HiddenStates, MixedTargets, SparseTargets, Teacher

SURE, UNSURE = FakeTeacher(61, seed=1, sharpness=5.0), FakeTeacher(61, seed=2, sharpness=0.5)
ROWS = [[3, 7, 5, 9], [4, 4, 8, 1], [6, 2, 2, 60]]
WEIGHTS = [[0.0, 1.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]]


def batch() -> Batch:
    found = batch_of(ROWS, WEIGHTS)
    return replace(found, targets=found.inputs.roll(-1, 1))


def log_probs(teacher: Teacher, text: Batch) -> torch.Tensor:
    targets = teacher.label(text)
    assert isinstance(targets, DenseTargets)
    return targets.head.logits(targets.rows).double().log_softmax(-1)


def test_weights_are_shares():
    targets = MixtureTeacher((SURE, UNSURE), (3.0, 1.0)).label(batch())
    assert targets.weights.shape == (9, 2)
    torch.testing.assert_close(targets.weights, torch.tensor([[0.75, 0.25]]).repeat(9, 1))


def test_what_is_on_disk_is_told_from_what_is_asked(monkeypatch):
    stored = object.__new__(StoredTeacher)
    monkeypatch.setattr(StoredTeacher, "num_tokens", 61, raising=False)
    every, some = np.zeros(3, dtype=np.int64), (stored, SURE)
    for both in (MixtureTeacher((stored, stored), (1.0, 1.0)), RoutedTeacher((stored, stored), every)):
        assert is_stored(both)
        assert stored_among(both)
    for one in (MixtureTeacher(some, (1.0, 1.0)), RoutedTeacher(some, every)):
        assert not is_stored(one)
        assert stored_among(one)
    assert not is_stored(None)
    assert not stored_among(SURE)


def test_confidence_is_weighed_by_the_entropy():
    text = batch()
    entropy = torch.stack([-(log_p.exp() * log_p).sum(-1) for log_p in (log_probs(t, text) for t in (SURE, UNSURE))], 1)
    expected = torch.tensor([2.0, 1.0]) * (-entropy).exp()
    found = MixtureTeacher((SURE, UNSURE), (2.0, 1.0), by="confidence").label(text).weights
    torch.testing.assert_close(found.double(), expected / expected.sum(1, keepdim=True), rtol=1e-5, atol=1e-6)
    assert (found[:, 0] > found[:, 1]).all()


def test_cross_entropy_is_weighed_as_ca_mkd_does():
    text, three = batch(), (SURE, UNSURE, FakeTeacher(61, seed=3))
    true = text.targets[text.counted][:, None]
    surprise = torch.stack([-log_probs(one, text).gather(1, true).squeeze(1) for one in three], 1)
    expected = (1 - surprise.softmax(1)) / 2
    found = MixtureTeacher(three, (1.0, 1.0, 1.0), by="cross_entropy").label(text).weights
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(LossError, match="two of them"):
        MixtureTeacher((SURE,), (1.0,), by="cross_entropy")


@pytest.mark.parametrize("by", ["weights", "confidence", "cross_entropy"])
def test_weights_do_not_depend_on_how_a_batch_is_split(by):
    mixture = MixtureTeacher((SURE, UNSURE), (1.0, 2.0), by=by)
    whole = mixture.label(batch()).weights
    split = torch.cat([mixture.label(part).weights for part in batch().split(1)])
    torch.testing.assert_close(split, whole)


def test_teachers_of_different_sizes_are_refused():
    with pytest.raises(VocabularyError, match=r"61, 62 tokens"):
        MixtureTeacher((SURE, FakeTeacher(62)), (1.0, 1.0))
    with pytest.raises(VocabularyError, match=r"61, 62 tokens"):
        RoutedTeacher((SURE, FakeTeacher(62)), np.zeros(1, np.int64))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("inf"))])
def test_weights_that_can_not_be_meant_are_refused(weights):
    with pytest.raises(LossError):
        MixtureTeacher((SURE, UNSURE), weights)


def test_a_mixture_in_a_mixture_is_refused():
    inner = MixtureTeacher((SURE, UNSURE), (1.0, 1.0))
    with pytest.raises(LossError, match="name all teachers in one"):
        MixtureTeacher((inner, SURE), (1.0, 1.0)).label(batch())


class Listing:
    """A teacher that says the four likeliest tokens of another."""

    def __init__(self, teacher: FakeTeacher) -> None:
        self.teacher, self.num_tokens = teacher, teacher.num_tokens

    def label(self, batch: Batch) -> SparseTargets:
        probs, ids = log_probs(self.teacher, batch).exp().topk(4)
        return SparseTargets(ids, probs, 1 - probs.sum(-1))


def test_a_few_tokens_do_not_tell_how_sure_a_teacher_is():
    with pytest.raises(LossError, match="whole distributions"):
        MixtureTeacher((Listing(SURE), Listing(UNSURE)), (1.0, 1.0), by="confidence").label(batch())


def packed() -> Batch:
    """Documents 0 (of teacher 1) and 1 (of teacher 0) share a row; document 2 is of teacher 1; padding at the end."""
    documents = torch.tensor([[0, 0, 1, 1], [2, 2, 2, -1]])
    weights = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    tokens = torch.tensor(ROWS[:2])
    return Batch(tokens, tokens.roll(-1, 1), weights, documents, positions, positions)


@pytest.mark.parametrize("kind", ["fake", "live", "listing"])
def test_each_document_is_marked_by_its_own_teacher(kind):
    text = packed()
    two: tuple[Teacher, Teacher] = (SURE, UNSURE)
    if kind == "live":
        two = (LiveTeacher(tiny_model("llama"), size=61), LiveTeacher(tiny_model("gpt2"), size=61))
    if kind == "listing":
        two = (Listing(SURE), Listing(UNSURE))
    routed = RoutedTeacher(two, np.array([1, 0, 1])).label(text)
    assert isinstance(routed, MixedTargets)
    own = torch.tensor([1, 1, 0, 1, 1, 1])  # of each counted prediction
    assert torch.equal(routed.weights.argmax(1), own)
    alone = [teacher.label(text) for teacher in two]
    if kind == "listing":
        for row, number in enumerate(own.tolist()):
            part, whole = routed.parts[number], alone[number]
            assert isinstance(part, SparseTargets)
            assert isinstance(whole, SparseTargets)
            assert torch.equal(part.ids[row], whole.ids[row])
        return
    logits = [one.head.logits(one.rows) for one in alone if isinstance(one, DenseTargets)]
    expected = torch.where(own[:, None] == 1, logits[1], logits[0]).log_softmax(-1)
    torch.testing.assert_close(mixed_logits(routed, 1.0).log_softmax(-1), expected, rtol=1e-4, atol=1e-4)


def test_a_teacher_of_no_document_is_not_asked():
    class Deaf:
        num_tokens = 61

        def label(self, batch: Batch) -> DenseTargets:
            raise AssertionError("asked")

    targets = RoutedTeacher((SURE, Deaf()), np.zeros(3, np.int64)).label(packed())
    assert isinstance(targets, DenseTargets)
    nothing = replace(packed(), weights=torch.zeros(2, 4))
    empty = RoutedTeacher((SURE, Deaf()), np.zeros(3, np.int64)).label(nothing)
    assert isinstance(empty, DenseTargets)
    assert len(empty.rows) == 0


def test_a_document_without_a_teacher_is_refused():
    with pytest.raises(DataError, match="2 of 3 documents name no teacher, first document 1"):
        RoutedTeacher((SURE, UNSURE), np.array([0, -1, 2]))


def test_the_loss_takes_a_routed_teacher_however_the_text_is_split():
    from potstill.losses import linear_loss

    text, routed = packed(), RoutedTeacher((SURE, UNSURE), np.array([1, 0, 1]))
    student = FakeTeacher(61, seed=9)

    def total(part: Batch) -> torch.Tensor:
        states, counted = student.label(part), part.counted
        rows = HiddenStates(states.rows, states.head)
        return linear_loss(
            rows, routed.label(part), part.targets[counted], part.weights[counted], SoftLabelLoss()
        ).total

    torch.testing.assert_close(sum(total(part) for part in text.split(1)), total(text), rtol=1e-5, atol=1e-5)
