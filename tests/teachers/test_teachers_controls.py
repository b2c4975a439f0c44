"""Teachers of whom something was taken, against fp64 closed forms: what stays stays exactly, what goes goes the same way each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import batch_of

from potstill.errors import LossError
from potstill.losses import HARD_LABELS, SoftLabelLoss, linear_loss
from potstill.teachers import ArgmaxTeacher, FakeTeacher, MixtureTeacher, PartTeacher, PermutedTeacher
from potstill.types import Batch, DenseTargets, Head, HiddenStates, Labels, SparseTargets

TEACHER = FakeTeacher(61, seed=1, sharpness=2.0)
ROWS = [[3, 7, 5, 9], [4, 4, 8, 1], [6, 2, 2, 60]]
WEIGHTS = [[0.0, 1.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]]


class Saying:
    """A teacher that says these targets, whatever it is asked."""

    num_tokens = 9

    def __init__(self, targets: SparseTargets) -> None:
        self.targets = targets

    def label(self, batch: Batch) -> Labels:
        return self.targets


def batch() -> Batch:
    found = batch_of(ROWS, WEIGHTS)
    return replace(found, targets=found.inputs.roll(-1, 1))


def probabilities(temperature: float = 1.0) -> torch.Tensor:
    said = TEACHER.label(batch())
    return (said.head.logits(said.rows).double() / temperature).softmax(-1)


def whole(targets: SparseTargets) -> torch.Tensor:
    return torch.zeros(len(targets.ids), 61).scatter_(1, targets.ids, targets.probs).double()


def test_argmax_is_the_hard_label_of_the_teacher():
    text, likeliest = batch(), probabilities().argmax(1)
    targets = ArgmaxTeacher(TEACHER).label(text)
    assert targets.ids.squeeze(1).tolist() == likeliest.tolist()
    torch.manual_seed(0)
    rows = torch.randn(len(likeliest), 5, dtype=torch.float64)
    losses, gradients = [], []
    for said, tokens, how in ((targets, text.targets[text.counted], SoftLabelLoss()), (None, likeliest, HARD_LABELS)):
        head = Head(torch.linspace(-1, 1, 61 * 5, dtype=torch.float64).reshape(61, 5))
        ours = rows.clone().requires_grad_()
        total = linear_loss(HiddenStates(ours, head), said, tokens, text.weights[text.counted].double(), how).total
        total.backward()
        assert ours.grad is not None
        losses.append(total.detach())
        gradients.append(ours.grad)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_permuting_leaves_the_likeliest_and_every_probability(temperature: float):
    p = probabilities(temperature)
    q = whole(PermutedTeacher(TEACHER, seed=4, temperature=temperature).label(batch()))
    likeliest = p.argmax(1, keepdim=True)
    torch.testing.assert_close(q.gather(1, likeliest), p.gather(1, likeliest), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(q.sort(1).values, p.sort(1).values, rtol=1e-5, atol=1e-7)
    entropies = [torch.special.entr(one).sum(1) for one in (p, q)]
    torch.testing.assert_close(entropies[0], entropies[1], rtol=1e-5, atol=1e-6)
    assert (q - p).abs().sum(1).min() > 0.01


def test_a_permutation_belongs_to_its_place_in_the_text():
    text, teacher = batch(), PermutedTeacher(TEACHER, seed=4)
    together = whole(teacher.label(text))
    apart = torch.cat([whole(teacher.label(part)) for part in text.split(1)])
    assert torch.equal(together, apart)
    assert torch.equal(together, whole(PermutedTeacher(TEACHER, seed=4).label(text)))
    assert not torch.equal(together, whole(PermutedTeacher(TEACHER, seed=5).label(text)))
    # Two predictions after the same token, which the teacher believes the same of.
    assert not torch.equal(together[3], together[4])
    elsewhere = replace(text, documents=text.documents + 7)
    assert not torch.equal(together, whole(teacher.label(elsewhere)))
    part = replace(elsewhere, documents=torch.where(text.documents == 2, -1, text.documents))
    numbered = PartTeacher(teacher, torch.tensor([7, 8]))
    first = batch().rows(0, 2)
    assert torch.equal(
        whole(numbered.label(part.rows(0, 2))), whole(teacher.label(replace(first, documents=first.documents + 7)))
    )


def test_each_other_token_is_as_likely_to_get_a_probability():
    places = torch.arange(20_000).reshape(200, 100)
    text = Batch(
        *([torch.full_like(places, 3)] * 2), torch.ones(places.shape), places // 100, places % 100, places % 100
    )
    p = TEACHER.label(text.rows(0, 1)).head.logits(TEACHER.label(text.rows(0, 1)).rows[:1]).softmax(-1)[0]
    mean = whole(PermutedTeacher(TEACHER).label(text)).mean(0)
    expected = torch.full((61,), (1 - p.max().item()) / 60, dtype=torch.float64)
    expected[p.argmax()] = p.max().double()
    second = p.sort().values[-2].item()
    assert (mean - expected).abs().max() < 5 * second / (60 * 20_000) ** 0.5


def test_listed_tokens_move_and_their_rest_stays():
    ids, probs = torch.tensor([[4, 2, 8, -1]] * 9), torch.tensor([[0.5, 0.2, 0.1, 0.0]] * 9)
    listed = SparseTargets(ids, probs, torch.full((9,), 0.2))
    found = PermutedTeacher(Saying(listed)).label(batch())
    assert torch.equal(found.probs, probs)
    assert found.rest is not None
    assert torch.equal(found.rest, torch.full((9,), 0.2))
    assert (found.ids[:, 0] == 4).all()
    assert (found.ids[:, 3] == -1).all()
    assert all(len(set(row)) == 4 for row in found.ids.tolist())
    assert len({tuple(row) for row in found.ids.tolist()}) > 3
    assert ArgmaxTeacher(Saying(listed)).label(batch()).ids.unique().tolist() == [4]


def test_mixtures_of_whole_distributions_have_both():
    mixture = MixtureTeacher((TEACHER, FakeTeacher(61, seed=2)), (1.0, 1.0))
    others = FakeTeacher(61, seed=2).label(batch())
    p = (probabilities() + others.head.logits(others.rows).double().softmax(-1)) / 2
    assert ArgmaxTeacher(mixture).label(batch()).ids.squeeze(1).tolist() == p.argmax(1).tolist()
    torch.testing.assert_close(
        whole(PermutedTeacher(mixture).label(batch())).sort(1).values, p.sort(1).values, rtol=1e-5, atol=1e-7
    )


def test_what_is_not_defined_is_refused():
    sampled = SparseTargets(torch.tensor([[4, 2]]), torch.tensor([[0.5, 0.5]]), None)
    for teacher in (ArgmaxTeacher(Saying(sampled)), PermutedTeacher(Saying(sampled))):
        with pytest.raises(LossError, match="not defined for samples"):
            teacher.label(batch())
    warm = SparseTargets(torch.tensor([[4, 2]]), torch.tensor([[0.5, 0.3]]), torch.tensor([0.2]), 2.0)
    with pytest.raises(LossError, match="temperature 2"):
        PermutedTeacher(Saying(warm)).label(batch())
    with pytest.raises(LossError, match="nothing to permute"):
        PermutedTeacher(FakeTeacher(2))


def test_nothing_counted_is_no_label():
    nothing = batch_of(ROWS, [[0.0] * 4] * 3)
    assert ArgmaxTeacher(TEACHER).label(nothing).ids.shape == (0, 1)
    assert len(PermutedTeacher(TEACHER).label(nothing).ids) == 0
    assert isinstance(TEACHER.label(nothing), DenseTargets)
