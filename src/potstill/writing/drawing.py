"""The next token, chosen by numbers that belong to the prompt: the same in whatever batch, and after whatever kill."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from potstill.errors import NotFiniteError
from potstill.models import cut, draw
from potstill.soft_labels.noise import uniforms
from potstill.writing.samples import Sampling


class Drawing:
    """Among the logits processors of `generate`: leaves one token a row possible, and remembers its log-probability.

    The log-probabilities are the model's own, before temperature and cuts. `keys` are the rows' (see `key_of`), `width` is the number of
    tokens in front of what is written. `likeliest`: so many tokens are remembered at each place, with theirs.
    """

    def __init__(self, sampling: Sampling, keys: NDArray[np.uint64], width: int, *, likeliest: int = 0) -> None:
        self.sampling, self.keys, self.width, self._likeliest = sampling, keys, width, likeliest
        self.logprobs: list[Tensor] = []
        self.tops: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Int[Tensor, "rows read"], scores: Float[Tensor, "rows tokens"]) -> Tensor:
        """Scores in which all but one token of each row are impossible. NotFiniteError where the model's are NaN or infinite."""
        asked, log_p = self.sampling, scores.float().log_softmax(-1)
        if log_p.amax(-1).isnan().any():
            raise NotFiniteError(
                "the writer's logits are NaN or infinite: its weights are damaged, or its dtype is too small"
            )
        if asked.temperature == 0:
            chosen = log_p.argmax(-1, keepdim=True)
        else:
            places = np.full(len(self.keys), input_ids.shape[1] - self.width, dtype=np.int64)
            drawn = torch.from_numpy(uniforms(asked.seed, self.keys, places, 1)[:, 0]).to(scores.device)
            p = (log_p / asked.temperature).softmax(-1)
            weights = cut(p, top_k=asked.top_k or None, top_p=asked.top_p, min_p=asked.min_p)
            chosen = draw(weights, drawn)[:, None]
        self.logprobs.append(log_p.gather(-1, chosen)[:, 0])
        if self._likeliest:
            found = log_p.topk(min(self._likeliest, log_p.shape[-1]), dim=-1)
            self.tops.append((found.values.cpu(), found.indices.cpu()))
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def key_of(prompt_id: str, sample: int) -> int:
    """Of one sample of one prompt, 64 bits."""
    digest = hashlib.blake2b(f"{prompt_id} {sample}".encode(), digest_size=8, person=b"potstill draw")
    return int.from_bytes(digest.digest(), "little")
