"""Run by test_losses_fused.py: compiled losses beside eager ones and beside fp64; one line of JSON each, then the graphs compiled."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from potstill.losses import Divergence, ForwardKL, JensenShannon, ReverseKL, SoftLabelLoss, linear_loss
from potstill.types import DenseTargets, Head, HiddenStates, SoftTargets, SparseTargets

ROWS, WIDTH, TOKENS, SLOTS = 64, 32, 512, 9
CASES: list[tuple[str, Divergence]] = [
    ("dense", ForwardKL()),
    ("dense", ReverseKL()),
    ("dense", JensenShannon(0.5)),
    ("top_k", ForwardKL()),
    ("sampled", ForwardKL()),
]


def run(
    dtype: torch.dtype, kind: str, measure: SoftLabelLoss, *, softcap: float | None, compiled: bool
) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    rows, weight, teacher_rows, teacher_weight = (
        torch.randn(n, WIDTH, generator=draw, dtype=torch.float64) for n in (ROWS, TOKENS, ROWS, TOKENS)
    )
    tokens = torch.randint(0, TOKENS, (ROWS,), generator=draw)
    probs, ids = (teacher_rows @ teacher_weight.T / measure.temperature).softmax(-1).topk(SLOTS)
    targets: dict[str, SoftTargets] = {
        "dense": DenseTargets(teacher_rows.to(dtype), Head(teacher_weight.to(dtype))),
        "top_k": SparseTargets(ids, probs, 1 - probs.sum(-1), measure.temperature),
        "sampled": SparseTargets(ids, torch.full_like(probs, 1 / SLOTS), None, measure.temperature),
    }
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (rows, weight)]
    states = HiddenStates(leaves[0], Head(leaves[1], softcap=softcap))
    loss = linear_loss(states, targets[kind], tokens, torch.ones(ROWS), measure, compiled=compiled)
    return [tensor.double() for tensor in (loss.total.detach(), *torch.autograd.grad(loss.total, leaves))]


def distance(one: list[Tensor], other: list[Tensor]) -> list[float]:
    return [((left - right).norm() / right.norm()).item() for left, right in zip(one, other, strict=True)]


def main() -> None:
    for dtype, temperature, softcap in ((torch.float32, 2.0, 20.0), (torch.bfloat16, 1.0, None)):
        for kind, divergence in CASES:
            torch.compiler.reset()
            measure = SoftLabelLoss(divergence, temperature, 0.5)
            compiled = run(dtype, kind, measure, softcap=softcap, compiled=True)
            eager = run(dtype, kind, measure, softcap=softcap, compiled=False)
            exact = run(torch.float64, kind, measure, softcap=softcap, compiled=False)
            found = {"from_eager": distance(compiled, eager), "from_fp64": distance(compiled, exact)}
            print(json.dumps({"kind": kind, "divergence": str(divergence), "dtype": str(dtype), **found}))
    print(json.dumps({"graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}))


if __name__ == "__main__":
    main()
