"""Features in the loop: one gradient however a step is split, packed or padded; projections resume and stay out of the student."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from potstill.errors import LossError, RunDirectoryError
from potstill.losses import (
    AttentionMapLoss,
    AttentionRelationLoss,
    FeatureLoss,
    ForwardKL,
    HiddenLoss,
    Projection,
    SoftLabelLoss,
)
from potstill.teachers import FakeTeacher, LiveTeacher
from potstill.training import TrainingSettings, train
from potstill.types import EMBEDDINGS, Batch

SOFT = SoftLabelLoss(ForwardKL(), alpha=0.7)
SETTINGS = TrainingSettings(steps=3, learning_rate=1e-2)
# The student is 32 wide with 4 query heads, the teacher 48 wide with 6.
PROJECTION = Projection(32, 48)
EVERYTHING = FeatureLoss(
    (
        HiddenLoss(((0, 1), (1, 2)), 0.3, "mse", replace(PROJECTION, is_shared=False), standardised=True),
        HiddenLoss(((-1, -1),), 0.5, projection=PROJECTION),
        AttentionRelationLoss(((1, 2),), causal=True, weight=0.2, heads=4),
    ),
    shares_every=2,
)
MORE = FeatureLoss((HiddenLoss(((1, 2),), distance="cka"), AttentionMapLoss(((0, 0),), causal=True, weight=0.3)))


def teacher_for(features: FeatureLoss, *, heads: int = 6) -> LiveTeacher:
    torch.manual_seed(9)
    shape = {"hidden_size": 8 * heads, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": heads}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=61, num_key_value_heads=2, **shape, max_position_embeddings=64))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return LiveTeacher(model, size=61, layers=features.teacher_layers, attention=features.teacher_attention)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("balance", ["fixed", "dynamic"])
@pytest.mark.parametrize(("features", "heads"), [(EVERYTHING, 6), (MORE, 4)])
def test_how_a_step_is_split_changes_nothing(features: FeatureLoss, heads: int, balance, new_student, text):
    features, found = replace(features, balance=balance), []
    for rows in (None, 1, 3):
        student = new_student()
        settings = replace(SETTINGS, micro_rows=rows)
        steps = list(train(student, teacher_for(features, heads=heads), text, SOFT, settings, features=features))
        found.append((steps, weights_of(student)))
    (whole, weights), *others = found
    for steps, split in others:
        for one, other in zip(whole, steps, strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-4)
            assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)
            assert other.shares == pytest.approx(one.shares, rel=1e-3)
        for name, weight in weights.items():
            torch.testing.assert_close(split[name], weight, rtol=1e-3, atol=1e-3)
    assert all(step.parts[name] > 0 for step in whole for name in features.names)


def test_the_loss_is_the_sum_it_says(new_student, text):
    (step,) = train(new_student(), teacher_for(EVERYTHING), text, SOFT, replace(SETTINGS, steps=1), features=EVERYTHING)
    labels = 0.7 * step.parts["soft"] + 0.3 * step.parts["hard"]
    weighted = {term.name: term.weight * step.parts[term.name] for term in EVERYTHING.terms}
    assert step.loss == pytest.approx(labels + sum(weighted.values()), rel=1e-5)
    assert step.shares.keys() == {"labels", "hidden", "embeddings", "attention"}
    assert sum(step.shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in step.shares.values())


def test_dynamic_balance_makes_terms_as_large_as_the_labels(new_student, text):
    """In the first step by its own loss, afterwards by that of the step before."""
    features = replace(EVERYTHING, balance="dynamic")
    steps = list(train(new_student(), teacher_for(features), text, SOFT, SETTINGS, features=features))
    labels = [0.7 * step.parts["soft"] + 0.3 * step.parts["hard"] for step in steps]
    assert steps[0].loss == pytest.approx(labels[0] * (1 + 0.3 + 0.5 + 0.2), rel=1e-4)
    ratios = {term.name: term.weight * labels[0] / steps[0].parts[term.name] for term in features.terms}
    expected = labels[1] + sum(ratio * steps[1].parts[name] for name, ratio in ratios.items())
    assert steps[1].loss == pytest.approx(expected, rel=1e-4)


@dataclass(frozen=True)
class TwoTexts:
    """Two contexts of 5 and 7 tokens: in one row, in two rows that are padded, or in rows of more padding."""

    shape: str

    def from_step(self, step: int) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(step)
        texts = [torch.randint(4, 61, (size + 1,), generator=draw) for size in (5, 7)]
        width = {"packed": 12, "padded": 7, "wider": 11}[self.shape]
        rows = [texts] if self.shape == "packed" else [[one] for one in texts]
        made = []
        for row in rows:
            ends, blank = sum(len(one) - 1 for one in row), torch.zeros
            rest = width - ends
            inputs = torch.cat([*(one[:-1] for one in row), blank(rest, dtype=torch.int64)])
            targets = torch.cat([*(one[1:] for one in row), blank(rest, dtype=torch.int64)])
            positions = torch.cat([*(torch.arange(len(one) - 1) for one in row), torch.arange(rest)])
            documents = torch.cat([*(torch.full((len(one) - 1,), len(one)) for one in row), torch.full((rest,), -1)])
            made.append((inputs, targets, (documents >= 0).float(), documents, positions, positions))
        while True:
            yield Batch(*(torch.stack(field) for field in zip(*made, strict=True)))


@pytest.mark.parametrize(("features", "heads"), [(EVERYTHING, 6), (MORE, 4)])
def test_packing_and_padding_change_nothing(features: FeatureLoss, heads: int, new_student):
    found = []
    for shape in ("packed", "padded", "wider"):
        student = new_student()
        (step,) = train(
            student,
            teacher_for(features, heads=heads),
            TwoTexts(shape),
            SOFT,
            replace(SETTINGS, steps=1),
            features=features,
        )
        found.append(step)
    for other in found[1:]:
        assert other.parts == pytest.approx(found[0].parts, rel=1e-4)
        assert other.gradient_norm == pytest.approx(found[0].gradient_norm, rel=1e-3)
        assert other.shares == pytest.approx(found[0].shares, rel=1e-3)


@pytest.mark.parametrize(("features", "heads"), [(EVERYTHING, 6), (MORE, 4)])
def test_terms_are_learned(features: FeatureLoss, heads: int, new_student):
    settings = TrainingSettings(steps=25, learning_rate=1e-2)
    teacher = teacher_for(features, heads=heads)
    steps = list(train(new_student(), teacher, TwoTexts("padded"), SOFT, settings, features=features))
    assert all(steps[-1].parts[name] < 0.8 * steps[0].parts[name] for name in features.names)


@pytest.mark.parametrize("balance", ["fixed", "dynamic"])
def test_a_killed_run_goes_on_with_its_projections(balance, new_student, text, tmp_path):
    features = replace(EVERYTHING, balance=balance)
    settings = TrainingSettings(steps=5, learning_rate=1e-2, checkpoint_every=2)
    undisturbed = new_student(dropout=0.2)
    steps = list(train(undisturbed, teacher_for(features), text, SOFT, settings, features=features))
    killed = new_student(dropout=0.2)
    for step in train(killed, teacher_for(features), text, SOFT, settings, folder=tmp_path, features=features):
        if step.index == 3:
            break
    torch.manual_seed(99)
    resumed = new_student(dropout=0.2, seed=8)
    again = list(train(resumed, teacher_for(features), text, SOFT, settings, folder=tmp_path, features=features))
    assert [step.index for step in again] == [3, 4, 5]
    assert [step.loss for step in again] == [step.loss for step in steps[2:]]
    assert_same_bits(weights_of(resumed), weights_of(undisturbed))
    with pytest.raises(RunDirectoryError, match="of another student"):
        next(train(new_student(), FakeTeacher(61), text, SOFT, replace(settings, steps=9), folder=tmp_path))


def test_a_projection_never_becomes_part_of_the_student(new_student, text, tmp_path):
    student = new_student()
    names = student.state_dict().keys()
    list(train(student, teacher_for(EVERYTHING), text, SOFT, SETTINGS, features=EVERYTHING))
    assert student.state_dict().keys() == names
    student.save_pretrained(tmp_path)
    assert_same_bits(weights_of(AutoModelForCausalLM.from_pretrained(tmp_path)), weights_of(student))


def test_looking_at_shares_and_computing_twice_change_nothing(new_student, text):
    found = []
    for every, twice in ((None, False), (1, False), (1, True)):
        student = new_student(dropout=0.0)
        features = replace(EVERYTHING, shares_every=every)
        settings = replace(SETTINGS, gradient_checkpointing=twice)
        steps = list(train(student, teacher_for(features), text, SOFT, settings, features=features))
        found.append((weights_of(student), steps))
    assert_same_bits(found[0][0], found[1][0])
    assert not found[0][1][0].shares
    for one, other in zip(found[1][1], found[2][1], strict=True):
        assert other.shares == pytest.approx(one.shares, rel=1e-4)
        assert other.loss == pytest.approx(one.loss, rel=1e-4)


def test_labels_without_features_are_refused(new_student, text):
    with pytest.raises(LossError, match="use a live teacher"):
        next(train(new_student(), FakeTeacher(61), text, SOFT, SETTINGS, features=EVERYTHING))


def test_dynamic_balance_makes_little_of_what_is_next_to_nothing(new_student, text):
    """A student cut from its teacher has its embeddings to the last bit but rounding: that is no term to be made as large as the labels."""
    student = new_student()
    teacher = LiveTeacher(deepcopy(student).requires_grad_(False), size=61, layers=(EMBEDDINGS,))
    features = FeatureLoss((HiddenLoss(((EMBEDDINGS, EMBEDDINGS),)),), balance="dynamic")
    steps = list(train(student, teacher, text, replace(SOFT, alpha=0.0), SETTINGS, features=features))
    assert max(step.loss for step in steps) < 3 * steps[0].parts["hard"]
