"""One block of rows by hand: from what the matmuls gave to the terms of the loss and the gradient, which takes their place.

Head (bias, scale, soft-capping), temperature and both terms meet here; the divergences' own formulas are in fused.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from potstill.losses.fused import Pulls, dense_rows, hard_rows_, sparse_rows_
from potstill.losses.soft import SoftLabelLoss
from potstill.losses.support import TeacherLogits
from potstill.losses.workspace import Workspace
from potstill.types import Head, SparseTargets

LossOfRows = Callable[
    [Tensor, TeacherLogits | SparseTargets | None, Tensor, SoftLabelLoss, Head, Workspace], tuple[Tensor, ...]
]


def loss_of_rows_(
    products: Tensor,
    targets: TeacherLogits | SparseTargets | None,
    tokens: Tensor,
    measure: SoftLabelLoss,
    head: Head,
    room: Workspace,
) -> tuple[Tensor, ...]:
    """The terms a row (soft where there are targets, then hard), and in `products` [rows, tokens] the gradient of the loss in
    them, before weights. Overwrites the teacher's logits too."""
    alpha, temperature = measure.alpha, measure.temperature
    z = _wide("z", products, room)
    _shape_(z, head)
    shaped = _copy("shaped", z, room) if head.softcap is not None else None
    rows = torch.arange(len(z), device=z.device)
    at_target = z[rows, tokens]
    apart = targets is not None and temperature != 1.0
    hard_q, log_sum = None, None
    if apart:
        if alpha < 1.0:
            hard_q = _copy("hard", z, room)
            log_sum = hard_rows_(hard_q, Pulls(0.0, 1.0))
        else:
            log_sum = z.logsumexp(-1)
        z.div_(temperature)
    pulls = Pulls(alpha * temperature if apart else alpha, 0.0 if apart else 1.0 - alpha)
    terms: tuple[Tensor, ...] = ()
    if targets is None:
        own_sum = hard_rows_(z, Pulls(0.0, 1.0))
    else:
        soft, own_sum = _soft(z, targets, measure, pulls, room)
        terms = (temperature**2 * soft,)
    hard = (own_sum if log_sum is None else log_sum) - at_target
    if hard_q is not None:
        z.add_(hard_q, alpha=1.0 - alpha)
    if alpha < 1.0 or targets is None:
        z[rows, tokens] -= 1.0 if targets is None else 1.0 - alpha
    _unshape_(z, shaped, head)
    if z is not products:
        products.copy_(z)
    return (*terms, hard)


@cache
def compiled_loss_of_rows_() -> LossOfRows:
    """The same through torch.compile: on a GPU its passes over memory become two or three kernels instead of a dozen."""
    return torch.compile(loss_of_rows_, dynamic=True)


def _soft(
    z: Tensor, targets: TeacherLogits | SparseTargets, measure: SoftLabelLoss, pulls: Pulls, room: Workspace
) -> tuple[Tensor, Tensor]:
    if isinstance(targets, SparseTargets):
        return sparse_rows_(z, targets, pulls)
    t = _wide("t", targets.products, room)
    _shape_(t, targets.head)
    if measure.temperature != 1.0:
        t.div_(measure.temperature)
    p = room.take("p", tuple(z.shape), dtype=z.dtype, device=z.device)
    by_hand = dense_rows(measure)
    assert by_hand is not None
    return by_hand(z, t, p, pulls)


def _wide(name: str, products: Tensor, room: Workspace) -> Tensor:
    """The products in at least fp32: themselves, where they are."""
    return products if products.dtype in (torch.float32, torch.float64) else _copy(name, products, room)


def _copy(name: str, values: Tensor, room: Workspace) -> Tensor:
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return room.take(name, tuple(values.shape), dtype=wide, device=values.device).copy_(values)


def _shape_(products: Tensor, head: Head) -> None:
    """`Head.shape`, in place."""
    if head.bias is not None:
        products.add_(head.bias[: head.num_tokens])
    if head.scale != 1.0:
        products.mul_(head.scale)
    if head.softcap is not None:
        products.div_(head.softcap).tanh_().mul_(head.softcap)


def _unshape_(gradient: Tensor, shaped: Tensor | None, head: Head) -> None:
    """From the gradient in the logits to that in the products."""
    if shaped is not None and head.softcap is not None:
        gradient.mul_(shaped.div_(head.softcap).square_().neg_().add_(1.0))
    if head.scale != 1.0:
        gradient.mul_(head.scale)
