"""The fused loss at work: chunk by chunk the matmuls, block by block the row mathematics.

Two sizes matter. A chunk is what the matmuls see: large, so that the head's weight and its gradient are read seldom. A block is
what the row mathematics sees: on a CPU small enough to stay in the cache through its passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from potstill.losses.by_hand import compiled_loss_of_rows_, loss_of_rows_
from potstill.losses.fused import dense_rows, has_sparse_rows
from potstill.losses.mixing import check_size, mixed_logits_, settled
from potstill.losses.soft import SoftLabelLoss
from potstill.losses.support import TeacherLogits, in_dtype, rows_of
from potstill.losses.workspace import Workspace
from potstill.types import Head, MixedTargets, SoftTargets, SparseTargets

# Of the logits in a chunk, in the matmul's dtype, teacher's and student's together. Measured and fixed, not tuned at run time:
# the number of rows decides the order of sums, and a resumed run must go on with the same bits.
_CHUNK_BYTES, _CHUNK_BYTES_ELSEWHERE = {"cpu": 384 * 2**20}, 2**30
_LEAST_ROWS, _MOST_ROWS = 64, 2048
# Of one wide matrix in a block: on a CPU what stays in the cache, elsewhere enough to keep all cores busy.
_BLOCK_BYTES, _BLOCK_BYTES_ELSEWHERE = {"cpu": 2 * 2**20}, 256 * 2**20


@dataclass(frozen=True)
class Work:
    """What does not change from chunk to chunk and carries no gradient of its own."""

    head: Head
    targets: SoftTargets | None
    measure: SoftLabelLoss
    learns: bool
    narrow: torch.dtype
    chunk_rows: int | None
    workspace: Workspace
    compiled: bool = False


@dataclass(frozen=True)
class Needs:
    """Which gradients are asked for."""

    rows: bool
    weight: bool
    bias: bool

    @property
    def any(self) -> bool:
        """Whether there is one at all: evaluation takes none."""
        return self.rows or self.weight or self.bias


class Engine:
    """Chunk by chunk: matmuls here, row mathematics in `_block`."""

    def __init__(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor, job: Work, needs: Needs
    ) -> None:
        device = rows.device
        self.job, self.needs, self.rows, self.weights = job, needs, rows, weights
        self.wide, self.size = weights.dtype, job.head.num_tokens
        self.narrow = job.narrow
        self.matrix = weight[: self.size].to(self.narrow)
        self.head = replace(job.head, weight=weight, bias=bias)
        temperature = job.measure.temperature
        self.targets = None if job.targets is None else in_dtype(settled(job.targets, temperature), self.narrow)
        self.grad_rows = torch.empty_like(rows) if needs.rows else None
        self.grad_weight = torch.empty(weight.shape, dtype=self.wide, device=device) if needs.weight else None
        self.grad_bias = None
        if bias is not None and needs.bias:
            self.grad_bias = torch.empty(bias.shape, dtype=self.wide, device=device)

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of the total, in the rows, the head's weight and its bias."""
        return self.grad_rows, self.grad_weight, self.grad_bias

    def run(self, tokens: Tensor, *, by_hand: bool) -> tuple[Tensor, Tensor]:
        """(total, parts), with the gradients filled in."""
        num_terms = 1 + self.job.measure.needs_teacher
        parts = torch.zeros(num_terms, dtype=self.wide, device=self.rows.device)
        chunk = self.job.chunk_rows or even_chunks(len(self.rows), self._most_chunk_rows())
        for gradient in (self.grad_weight, self.grad_bias):
            if gradient is not None:
                (gradient if len(self.rows) == 0 else gradient[self.size :]).zero_()
        for start in range(0, len(self.rows), chunk):
            here = slice(start, min(start + chunk, len(self.rows)))
            parts += self._chunk(here, tokens[here], by_hand=by_hand)
        alpha = self.job.measure.alpha
        shares = parts.new_tensor([alpha, 1 - alpha] if num_terms == 2 else [1.0])
        # A share of 0 times a hard term that is not a number must not make the total one.
        return torch.where(shares > 0, shares * parts, 0.0).sum(), parts

    def _chunk(self, here: slice, tokens: Tensor, *, by_hand: bool) -> Tensor:
        """The sums of the terms over these rows; adds to the gradients."""
        states = self.rows[here].to(self.narrow)
        products = self._matmul("student", states, self.matrix)
        targets = self._targets(here)
        sums = []
        for start in range(0, len(states), self._block_rows()):
            block = slice(start, start + self._block_rows())
            where = slice(here.start + block.start, min(here.start + block.stop, here.stop))
            block_targets = _rows_of(targets, block)
            terms = self._block(products[block], block_targets, tokens[block], by_hand=by_hand)
            sums.append(torch.stack([(self.weights[where] * term).sum() for term in terms]))
            if self.grad_bias is not None:
                self._add_bias(self.weights[where], products[block], is_first=where.start == 0)
        if self.needs.any:
            self._add_gradients(here, states, products)
        return torch.stack(sums).sum(0)

    def _targets(self, here: slice) -> TeacherLogits | SparseTargets | None:
        if self.targets is None:
            return None
        targets = rows_of(self.targets, here.start, here.stop)
        if isinstance(targets, SparseTargets):
            return targets
        if isinstance(targets, MixedTargets):
            return self._mixture(targets)
        head = targets.head
        check_size(head.num_tokens, self.size)
        return TeacherLogits(self._matmul("teacher", targets.rows, head.weight[: self.size]), head)

    def _mixture(self, targets: MixedTargets) -> TeacherLogits:
        """One teacher after another through the same memory, into logits of all of them."""
        shape = (len(targets.weights), self.size)
        out = self.job.workspace.take("mixture", shape, dtype=self.wide, device=self.rows.device)

        def products_of(rows: Tensor, head: Head) -> Tensor:
            check_size(head.num_tokens, self.size)
            return self._matmul("teacher", rows, head.weight[: self.size])

        return TeacherLogits(mixed_logits_(out, targets, self.job.measure.temperature, products_of), Head(self.matrix))

    def _matmul(self, name: str, states: Tensor, matrix: Tensor) -> Tensor:
        shape = (len(states), self.size)
        out = self.job.workspace.take(name, shape, dtype=states.dtype, device=states.device)
        return torch.mm(states, matrix.T, out=out)

    def _block(
        self, products: Tensor, targets: TeacherLogits | SparseTargets | None, tokens: Tensor, *, by_hand: bool
    ) -> tuple[Tensor, ...]:
        """The terms a row; leaves the gradient (before weights) of the loss in `products`."""
        if by_hand and self._is_known(targets):
            # Dense only: the compiler (torch 2.13) gave wrong gradients where a scatter_add_ is followed by an add_.
            is_compiled = self.job.compiled and not isinstance(targets, SparseTargets)
            rows_by_hand = compiled_loss_of_rows_() if is_compiled else loss_of_rows_
            room = Workspace() if is_compiled else self.job.workspace
            return rows_by_hand(products, targets, tokens, self.job.measure, self.head, room)
        return self._autodiff(products, targets, tokens)

    def _is_known(self, targets: TeacherLogits | SparseTargets | None) -> bool:
        measure = self.job.measure
        if isinstance(targets, SparseTargets):
            return targets.temperature == measure.temperature and has_sparse_rows(measure, targets)
        # Without targets that are needed, the long way knows what to say.
        return not measure.needs_teacher if targets is None else dense_rows(measure) is not None

    def _autodiff(
        self, products: Tensor, targets: TeacherLogits | SparseTargets | None, tokens: Tensor
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            wide = products.to(self.wide, copy=True).requires_grad_(self.needs.any)
            terms = self.job.measure.terms(self.head.shape(wide), targets, tokens)
            loss = torch.stack([share * value.sum() for share, value in terms.values()]).sum()
        if self.needs.any:
            products.copy_(torch.autograd.grad(loss, wide)[0])
        return tuple(value.detach() for _, value in terms.values())

    def _add_gradients(self, here: slice, states: Tensor, gradient: Tensor) -> None:
        """Weights enter here, where a row is as long as a hidden state and not as a vocabulary."""
        weights = self.weights[here].unsqueeze(-1).to(self.narrow)
        if self.grad_rows is not None:
            self.grad_rows[here] = (gradient @ self.matrix).mul_(weights)
        if self.grad_weight is None:
            return
        into, weighted = self.grad_weight[: self.size], states * weights
        if into.dtype == gradient.dtype:
            if here.start == 0:
                torch.mm(gradient.T, weighted, out=into)
            else:
                into.addmm_(gradient.T, weighted)
            return
        shape = tuple(into.shape)
        part = self.job.workspace.take("weight", shape, dtype=gradient.dtype, device=gradient.device)
        torch.mm(gradient.T, weighted, out=part)
        if here.start == 0:
            into.copy_(part)
        else:
            into.add_(part)

    def _add_bias(self, weights: Tensor, gradient: Tensor, *, is_first: bool) -> None:
        assert self.grad_bias is not None
        here = weights @ gradient.to(self.wide)
        into = self.grad_bias[: self.size]
        into.copy_(here) if is_first else into.add_(here)

    def _most_chunk_rows(self) -> int:
        matrices = 1 if self.targets is None or isinstance(self.targets, SparseTargets) else 2
        wide = self.wide.itemsize if isinstance(self.targets, MixedTargets) else 0
        most = _CHUNK_BYTES.get(self.rows.device.type, _CHUNK_BYTES_ELSEWHERE)
        rows = most // (self.size * (matrices * self.narrow.itemsize + wide))
        return max(_LEAST_ROWS, min(_MOST_ROWS, rows))

    def _block_rows(self) -> int:
        most = _BLOCK_BYTES.get(self.rows.device.type, _BLOCK_BYTES_ELSEWHERE)
        return max(1, most // (self.size * self.wide.itemsize))


def even_chunks(rows: int, most: int) -> int:
    """Rows a chunk, so that chunks of at most so many are about equally large: a small last one makes a slow matmul."""
    return max(1, math.ceil(rows / max(1, math.ceil(rows / most))))


def _rows_of(targets: TeacherLogits | SparseTargets | None, rows: slice) -> TeacherLogits | SparseTargets | None:
    match targets:
        case TeacherLogits(products, head):
            return TeacherLogits(products[rows], head)
        case SparseTargets():
            block = rows_of(targets, rows.start, rows.stop)
            assert isinstance(block, SparseTargets)
            return block
    return None
