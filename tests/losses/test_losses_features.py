"""Terms of features against slow references in fp64: values, gradients, and indifference to chunks, contexts and their order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from potstill.errors import LossError
from potstill.losses import AttentionMapLoss, AttentionRelationLoss, FeatureLoss, HiddenLoss, Projection
from potstill.losses.relations import Relation, relation_distance

CONTEXTS = torch.tensor([5, 1, 7, 4])
POSITIONS = int(CONTEXTS.sum())


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_of(seed: int, *, heads: int, groups: int, width: int, layers: tuple[int, ...] = (0, 1)) -> dict:
    numbers = {"queries": heads, "asked": heads, "keys": groups, "offered": groups, "values": groups}
    return {
        (part, layer): noise(POSITIONS, number, width, seed=100 * seed + 10 * layer + place)
        for layer in layers
        for place, (part, number) in enumerate(numbers.items())
    }


def learning(states: dict) -> dict:
    return {key: value.clone().requires_grad_() for key, value in states.items()}


def hsic(kernel: Tensor, other: Tensor) -> Tensor:
    """Song et al. 2012, equation 5, as it stands there."""
    n = len(kernel)
    kernel, other = (one - torch.diag(one.diagonal()) for one in (kernel, other))
    ones = torch.ones(n, dtype=kernel.dtype)
    trace = (kernel @ other).trace()
    product = (ones @ kernel @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * (ones @ kernel @ other @ ones)) / (n * (n - 3))


def cka_reference(ours: Tensor, theirs: Tensor) -> Tensor:
    total = 0.0 * ours.sum()
    for one, other in zip(ours.split(CONTEXTS.tolist()), theirs.split(CONTEXTS.tolist()), strict=True):
        if len(one) >= 4:
            first, second = one @ one.T, other @ other.T
            total = total + len(one) * (1 - hsic(first, second) / (hsic(first, first) * hsic(second, second)).sqrt())
    return total


def map_reference(ours: dict, theirs: dict, pairs: tuple, comparison: str, causal: bool) -> Tensor:
    """A position, a head and a layer at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for one, other in pairs:
        for head in range(4):
            start = 0
            for size in CONTEXTS.tolist():
                for i in range(start, start + size):
                    seen = range(start, i + 1 if causal else start + size)
                    ours_i, theirs_i = (
                        torch.stack([s["asked", at][i, head] @ s["offered", at][j, head // group] for j in seen])
                        for s, at, group in ((ours, one, 2), (theirs, other, 1))
                    )
                    if comparison == "probabilities":
                        ours_i, theirs_i = ours_i.softmax(0), theirs_i.softmax(0)
                    total = total + (ours_i - theirs_i).square().mean() / 4 / len(pairs)
                start += size
    return total


def relation_reference(ours: dict, theirs: dict, names: tuple, heads: int, causal: bool) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for name in names:
        vectors = [states[name, layer].flatten(1) for states, layer in ((ours, 1), (theirs, 1))]
        for head in range(heads):
            mine, other = (one[:, head * (w := one.shape[1] // heads) :][:, :w] for one in vectors)
            start = 0
            for size in CONTEXTS.tolist():
                for i in range(start, start + size):
                    seen = list(range(start, i + 1 if causal else start + size))
                    q, p = ((x[seen] @ x[i] / x.shape[1] ** 0.5).softmax(0) for x in (mine, other))
                    total = total + (p * (p.log() - q.log())).sum() / heads
                start += size
    return total


def assert_same(found: Tensor, expected: Tensor, states: dict) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    inputs = [one for one in states.values() if one.requires_grad]
    ours = torch.autograd.grad(found, inputs, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(expected, inputs, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_cka_is_the_unbiased_one_of_each_context():
    ours, theirs = {0: noise(POSITIONS, 3, seed=1).requires_grad_()}, {2: noise(POSITIONS, 8, seed=2) + 5}
    found = HiddenLoss(((0, 2),), distance="cka")(ours, theirs, CONTEXTS)
    assert found.shape == (POSITIONS,)
    assert found[5] == 0  # a context of one token has no shape
    assert_same(found.sum(), cka_reference(ours[0], theirs[2]), ours)


def test_cka_sees_neither_rotation_nor_size():
    theirs = {0: noise(POSITIONS, 6, seed=3)}
    turned = torch.linalg.qr(noise(6, 6, seed=4)).Q
    found = HiddenLoss(((0, 0),), distance="cka")({0: 3 * theirs[0] @ turned + 2}, theirs, CONTEXTS)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("is_shared", [True, False])
def test_projections_are_learned_with_the_student(distance: str, is_shared: bool):
    projection = Projection(3, 8, is_shared)
    loss = HiddenLoss(((0, 1), (1, 3)), distance=distance, projection=projection)
    matrices = [one.double().requires_grad_() for one in projection.matrices(2)]
    assert len(matrices) == (1 if is_shared else 2)
    ours, theirs = (
        learning({0: noise(9, 3, seed=1), 1: noise(9, 3, seed=2)}),
        {1: noise(9, 8, seed=3), 3: noise(9, 8, seed=4)},
    )
    expected = torch.zeros((), dtype=torch.float64)
    for place, (one, other) in enumerate(loss.pairs):
        for a, b in zip(ours[one], theirs[other], strict=True):
            a = matrices[0 if is_shared else place] @ a
            each = (a - b).square().mean() if distance == "mse" else 1 - a @ b / (a.norm() * b.norm())
            expected = expected + each / 2
    found = loss(ours, theirs, None, matrices).sum()
    assert_same(found, expected, ours | dict(enumerate(matrices, 10)))


def test_a_projection_begins_as_what_changes_least():
    (square,) = Projection(6, 6).matrices(3)
    assert torch.equal(square, torch.eye(6))
    (tall,) = Projection(6, 24, seed=5).matrices(3)
    torch.testing.assert_close(tall.T @ tall, 4 * torch.eye(6), atol=1e-5, rtol=1e-5)
    assert torch.equal(tall, Projection(6, 24, seed=5).matrices(3)[0])
    each = Projection(6, 24, is_shared=False).matrices(3)
    assert len(each) == 3
    assert not torch.equal(each[0], each[1])


def test_standardised_states_forget_size_and_offset():
    ours, theirs = {0: noise(9, 6, seed=1).requires_grad_()}, {0: noise(9, 6, seed=2)}
    loss = HiddenLoss(((0, 0),), distance="mse", standardised=True)
    found = loss(ours, theirs)
    assert torch.allclose(found, loss({0: 7 * ours[0] + 3}, {0: 10 * theirs[0] - 9}), rtol=1e-3)
    normal = [
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        for x in (ours[0], theirs[0])
    ]
    assert_same(found.sum(), (normal[0] - normal[1]).square().mean(-1).sum(), ours)


@pytest.mark.parametrize("comparison", ["scores", "probabilities"])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_maps(comparison: str, causal: bool):
    """Grouped keys in the student, as many as queries in the teacher; heads of different widths."""
    ours, theirs = learning(attention_of(1, heads=4, groups=2, width=3)), attention_of(2, heads=4, groups=4, width=5)
    pairs = ((0, 1), (1, 0))
    found = AttentionMapLoss(pairs, causal, comparison=comparison)(ours, theirs, CONTEXTS)
    assert_same(found, map_reference(ours, theirs, pairs, comparison, causal), ours)


@pytest.mark.parametrize("causal", [True, False])
def test_relations_with_heads_of_their_own(causal: bool):
    """6 relation heads of 4 x 3 and 6 x 5 channels for queries, of 2 x 3 and 6 x 5 for keys and values."""
    ours, theirs = learning(attention_of(1, heads=4, groups=2, width=3)), attention_of(2, heads=6, groups=6, width=5)
    found = AttentionRelationLoss(((1, 1),), causal, heads=6)(ours, theirs, CONTEXTS)
    assert_same(found, relation_reference(ours, theirs, ("queries", "keys", "values"), 6, causal), ours)


def test_the_first_minilm_compares_attention_and_values():
    ours, theirs = learning(attention_of(1, heads=4, groups=4, width=3)), attention_of(2, heads=4, groups=4, width=5)
    found = AttentionRelationLoss(((1, 1),), causal=True, relations=("attention", "value"))(ours, theirs, CONTEXTS)
    expected = relation_reference(ours, theirs, ("values",), 4, causal=True)
    start = 0
    for size in CONTEXTS.tolist():
        for i in range(start, start + size):
            for head in range(4):
                q, p = (
                    (s["offered", 1][start : i + 1, head] @ s["asked", 1][i, head]).softmax(0) for s in (ours, theirs)
                )
                expected = expected + (p * (p.log() - q.log())).sum() / 4
        start += size
    assert_same(found, expected, ours)


@pytest.mark.parametrize("comparison", ["kl", "scores", "probabilities"])
def test_chunks_change_nothing(comparison: str):
    ours, theirs = noise(POSITIONS, 2, 3, seed=1).requires_grad_(), noise(POSITIONS, 2, 4, seed=2)
    found = []
    for entries in (1, 30, 10_000):
        distance = relation_distance(
            Relation(ours, ours), Relation(theirs, theirs), CONTEXTS, comparison, causal=True, chunk_entries=entries
        )
        found.append((distance, *torch.autograd.grad(distance, ours)))
    for one in found[1:]:
        for a, b in zip(one, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "term",
    [
        HiddenLoss(((0, 0), (1, 1)), distance="mse", projection=Projection(6, 6)),
        HiddenLoss(((-1, -1),), projection=Projection(6, 6)),
        HiddenLoss(((0, 0),), distance="cka"),
        AttentionMapLoss(((0, 0), (1, 1)), causal=True),
        AttentionMapLoss(((0, 0),), causal=False, comparison="probabilities"),
        AttentionRelationLoss(((1, 1),), causal=True, heads=3),
        AttentionRelationLoss(((1, 1),), causal=False, relations=("attention", "value")),
    ],
    ids=lambda term: f"{type(term).__name__}-{term.name}",
)
def test_nothing_to_learn_from_oneself(term):
    layers = learning({layer: noise(POSITIONS, 6, seed=layer + 5) for layer in (-1, 0, 1)})
    attention = learning(attention_of(1, heads=4, groups=2, width=3))
    theirs = ({k: v.detach() for k, v in layers.items()}, {k: v.detach() for k, v in attention.items()})
    if isinstance(term, HiddenLoss):
        matrices = [] if term.projection is None else [one.double() for one in term.projection.matrices(2)]
        found = term(layers, theirs[0], CONTEXTS, matrices).sum()
    else:
        found = term(attention, theirs[1], CONTEXTS)
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-12)
    for one in (*layers.values(), *attention.values()):
        assert one.grad is None or one.grad.abs().max() < 1e-9


def test_contexts_are_strangers_to_each_other():
    """The sum over contexts is the sum of them one by one, in any order."""
    ours, theirs = attention_of(1, heads=4, groups=2, width=3), attention_of(2, heads=4, groups=4, width=3)
    states = ({0: noise(POSITIONS, 6, seed=1)}, {0: noise(POSITIONS, 9, seed=2)})
    relations, cka = AttentionRelationLoss(((0, 0),), causal=False, heads=2), HiddenLoss(((0, 0),), distance="cka")
    alone = [torch.zeros((), dtype=torch.float64)] * 2
    start = 0
    for size in CONTEXTS.tolist():
        here, one = slice(start, start + size), torch.tensor([size])
        alone[0] = alone[0] + relations(*({k: v[here] for k, v in s.items()} for s in (ours, theirs)), one)
        alone[1] = alone[1] + cka(*({k: v[here] for k, v in s.items()} for s in states), one).sum()
        start += size
    torch.testing.assert_close(relations(ours, theirs, CONTEXTS), alone[0])
    torch.testing.assert_close(cka(*states, CONTEXTS).sum(), alone[1])


def test_what_can_not_be_compared():
    ours, theirs = attention_of(1, heads=4, groups=2, width=3), attention_of(2, heads=6, groups=6, width=5)
    with pytest.raises(LossError, match=r'4 heads of the student.s attention .* with 6 .* compare "query"'):
        AttentionMapLoss(((0, 0),), causal=True)(ours, theirs, CONTEXTS)
    with pytest.raises(LossError, match=r"4 heads of the student.s query .* say how many relation heads"):
        AttentionRelationLoss(((0, 0),), causal=True)(ours, theirs, CONTEXTS)
    with pytest.raises(LossError, match=r"12 channels of the queries can't be divided into 5"):
        AttentionRelationLoss(((0, 0),), causal=True, heads=5)(ours, theirs, CONTEXTS)
    with pytest.raises(LossError, match="use a live teacher"):
        AttentionMapLoss(((0, 0),), causal=True)(ours, {}, CONTEXTS)
    with pytest.raises(LossError, match="leave the projection out"):
        HiddenLoss(((0, 0),), distance="cka", projection=Projection(3, 4))
    with pytest.raises(LossError, match="each once"):
        AttentionRelationLoss(((0, 0),), causal=True, relations=("key", "key"))
    with pytest.raises(LossError, match="different names"):
        FeatureLoss((HiddenLoss(((0, 0),)), HiddenLoss(((1, 1),))))
    with pytest.raises(LossError, match="from one width to another"):
        Projection(0, 4)
