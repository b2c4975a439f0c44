"""The next token, chosen by numbers that belong to the prompt: the same in whatever batch, and after whatever kill."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from potstill.soft_labels.noise import uniforms
from potstill.writing.samples import Sampling


class Drawing:
    """Among the logits processors of `generate`: leaves one token a row possible, and remembers its log-probability.

    The log-probabilities are the model's own, before temperature and cuts. `keys` are the rows' (see `key_of`), `width` is the number of
    tokens in front of what is written.
    """

    def __init__(self, sampling: Sampling, keys: NDArray[np.uint64], width: int) -> None:
        self.sampling, self.keys, self.width = sampling, keys, width
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Int[Tensor, "rows read"], scores: Float[Tensor, "rows tokens"]) -> Tensor:
        """Scores in which all but one token of each row are impossible."""
        log_p = scores.float().log_softmax(-1)
        if self.sampling.temperature == 0:
            chosen = log_p.argmax(-1, keepdim=True)
        else:
            places = np.full(len(self.keys), input_ids.shape[1] - self.width, dtype=np.int64)
            drawn = torch.from_numpy(uniforms(self.sampling.seed, self.keys, places, 1)[:, 0]).to(scores.device)
            chosen = draw(warped(log_p, self.sampling), drawn)
        self.logprobs.append(log_p.gather(-1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def key_of(prompt_id: str, sample: int) -> int:
    """Of one sample of one prompt, 64 bits."""
    digest = hashlib.blake2b(f"{prompt_id} {sample}".encode(), digest_size=8, person=b"potstill draw")
    return int.from_bytes(digest.digest(), "little")


def warped(log_p: Float[Tensor, "rows tokens"], sampling: Sampling) -> Float[Tensor, "rows tokens"]:
    """Weights to draw by (they need not sum to 1): temperature, then top_k, top_p and min_p, each of what is left."""
    p = (log_p / sampling.temperature).softmax(-1)
    if 0 < sampling.top_k < p.shape[-1]:
        least = p.topk(sampling.top_k, dim=-1).values[:, -1:]
        p = p.where(p >= least, 0.0)
    if sampling.top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = before < sampling.top_p * ordered.sum(-1, keepdim=True)
        p = p.where(torch.zeros_like(kept).scatter_(-1, order, kept), 0.0)
    if sampling.min_p > 0:
        p = p.where(p >= sampling.min_p * p.amax(-1, keepdim=True), 0.0)
    return p


def draw(weights: Float[Tensor, "rows tokens"], drawn: Float[Tensor, " rows"]) -> Int[Tensor, "rows 1"]:
    """The first token at which the weights so far are more than `drawn` (in [0, 1)) of all weights."""
    so_far = weights.double().cumsum(-1)
    # The largest number below 1 could be rounded up to 1.
    target = drawn.clamp(max=1 - 1e-12)[:, None] * so_far[:, -1:]
    return torch.searchsorted(so_far, target, right=True)
