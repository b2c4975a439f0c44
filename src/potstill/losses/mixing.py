"""Several teachers as one: the logits of a mixture a chunk at a time, or the tokens that any of them listed.

Σ w KL(p ‖ q) over teachers differs from KL(Σ w p ‖ q) by a number that the student has no part in: adding up the losses of several
teachers is learning from the arithmetic mean of their probabilities. Here the mean is taken first, which costs one divergence however
many teachers there are, is zero where the student agrees, and serves every divergence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LossError
from potstill.types import DenseTargets, Head, MixedTargets, SoftTargets, SparseTargets

# Of one matrix that is worked on at a time: what stays in a CPU's cache.
_BLOCK_BYTES = 2 * 2**20

ProductsOf = Callable[[Float[Tensor, "rows width"], Head], Float[Tensor, "rows tokens"]]


def settled(targets: SoftTargets, temperature: float) -> SoftTargets:
    """The same targets, a mixture of listed tokens made one list; LossError where several kinds of targets can't be mixed.

    Samples: the weighted union, as unbiased as they are. Likeliest tokens with a rest: the tokens that all teachers list are events, all
    others are the rest, for only of these every teacher's probability is known. Listed tokens mix with whole distributions where they
    are whole themselves (a rest of 0, as of a true label).
    """
    if not isinstance(targets, MixedTargets):
        return targets
    sparse = [part for part in targets.parts if isinstance(part, SparseTargets)]
    if not sparse:
        return targets
    if others := [part.temperature for part in sparse if part.temperature != temperature]:
        raise LossError(
            f"these soft labels were taken at temperature {others[0]:g} and the loss asks for {temperature:g}: "
            "a few probabilities can't be moved to another temperature; set the loss to theirs or label again"
        )
    if targets.of == "logits":
        raise LossError(
            "a mixture of logits needs the logits of all tokens, and some labels list a few: mix probabilities, or use live teachers or "
            'labels of tier "hidden"'
        )
    if len(sparse) == len(targets.parts) and len({part.is_sampled for part in sparse}) == 1:
        return _union(sparse, targets.weights)
    if all(part.rest is not None and not bool(part.rest.any()) for part in sparse):
        return targets
    raise LossError(
        "labels of several kinds (samples, likeliest tokens, whole distributions) can't be mixed: label with all teachers alike, or "
        'use labels of tier "hidden", which mix with live teachers'
    )


def mixed_logits_(
    out: Float[Tensor, "rows tokens"], targets: MixedTargets, temperature: float, products_of: ProductsOf
) -> Float[Tensor, "rows tokens"]:
    """Fill `out` with logits whose softmax at this temperature is the mixture of settled targets. `products_of` is rows @ head.weight.T;
    it is asked for the rows that a teacher counts in, one teacher at a time."""
    is_mean = targets.of == "probabilities"
    out.fill_(-torch.inf if is_mean else 0.0)
    for part, weights in zip(targets.parts, targets.weights.to(out.dtype).unbind(1), strict=True):
        chosen = weights.nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        if isinstance(part, SparseTargets):
            _add_listed_(out, part, weights)
            continue
        products = products_of(part.rows[chosen], part.head)
        size = max(1, _BLOCK_BYTES // (out.shape[-1] * out.element_size())) if out.device.type == "cpu" else len(out)
        for start in range(0, len(chosen), size):
            here, share = chosen[start : start + size], weights[chosen[start : start + size]].unsqueeze(1)
            logits = part.head.shape(products[start : start + size]).to(out.dtype)
            if is_mean:
                log_p = (logits / temperature).log_softmax(-1).add_(share.log())
                out[here] = torch.logaddexp(out[here], log_p)
            else:
                out[here] += share * logits
    return out.mul_(temperature) if is_mean else out


def mixed_logits(targets: MixedTargets, temperature: float) -> Float[Tensor, "rows tokens"]:
    """The same for a few rows, in at least fp32, from the teachers' own dtypes."""
    dense = next(part for part in targets.parts if isinstance(part, DenseTargets))
    wide = torch.promote_types(dense.rows.dtype, torch.float32)
    out = torch.empty(len(targets.weights), dense.head.num_tokens, dtype=wide, device=dense.rows.device)

    def products_of(rows: Tensor, head: Head) -> Tensor:
        check_size(head.num_tokens, dense.head.num_tokens)
        weight = head.weight[: head.num_tokens]
        return rows.to(weight.dtype) @ weight.T

    return mixed_logits_(out, targets, temperature, products_of)


def check_size(teacher: int, student: int) -> None:
    """LossError where the two don't give as many tokens a probability."""
    if teacher != student:
        raise LossError(
            f"the teacher gives {teacher:,} tokens a probability and the student {student:,}: slice both heads to the shared vocabulary "
            "(Head.sliced_to)"
        )


def _add_listed_(out: Tensor, part: SparseTargets, weights: Tensor) -> None:
    """log(e^out + w·p) at the tokens that are listed, each once a row."""
    rows, slots = ((part.ids >= 0) & (weights > 0).unsqueeze(1)).nonzero(as_tuple=True)
    tokens = part.ids[rows, slots]
    log_p = part.probs[rows, slots].to(out.dtype).log() + weights[rows].log()
    out[rows, tokens] = torch.logaddexp(out[rows, tokens], log_p)


def _union(parts: list[SparseTargets], weights: Tensor) -> SparseTargets:
    """One list a row; a token that several teachers list is there once."""
    counts = weights > 0
    ids = torch.cat([p.ids.masked_fill(~c.unsqueeze(1), -1) for p, c in zip(parts, counts.unbind(1), strict=True)], 1)
    shares = zip(parts, weights.unbind(1), strict=True)
    probs = torch.cat([part.probs.masked_fill(part.ids < 0, 0.0) * share.unsqueeze(1) for part, share in shares], 1)
    ids, order = ids.sort(1)
    probs = probs.gather(1, order).masked_fill(ids < 0, 0.0)
    is_first = torch.ones_like(ids, dtype=torch.bool)
    is_first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    group = is_first.cumsum(1) - 1
    sums = torch.zeros_like(probs).scatter_add_(1, group, probs)
    tokens = torch.full_like(ids, -1).scatter_(1, group, ids)
    temperature = parts[0].temperature
    if parts[0].rest is None:
        return SparseTargets(tokens, sums, None, temperature)
    lists = torch.zeros_like(probs).scatter_add_(1, group, torch.ones_like(probs))
    is_common = (lists == counts.sum(1, keepdim=True)) & (tokens >= 0)
    rests = torch.stack([part.rest for part in parts if part.rest is not None], 1)
    rest = (rests * weights).sum(1) + sums.masked_fill(is_common, 0.0).sum(1)
    return SparseTargets(tokens.masked_fill(~is_common, -1), sums.masked_fill(~is_common, 0.0), rest, temperature)
