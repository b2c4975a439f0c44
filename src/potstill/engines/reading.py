"""What an engine computes: a `Teacher` from its hidden states, its own probabilities and tokens, its speed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.engines.llama import LlamaServer
from potstill.errors import ServerError
from potstill.types import Batch, DenseTargets, Head

_REPEATS = 3


class EngineTeacher:
    """A running engine as one who marks text: its hidden states behind the final norm, and the head that makes logits of them.

    llama.cpp has no probabilities of a prompt's own tokens, but it gives the hidden state of each of them in one pass; the head's
    product is made here. What the engine's own arithmetic does to that product is for `log_probabilities` to show.
    """

    def __init__(self, server: LlamaServer, head: Head) -> None:
        """`server` was made with `embeddings`; `head` is the file's own, as it was written."""
        self.server, self.head, self.num_tokens = server, head, head.num_tokens

    def label(self, batch: Batch) -> DenseTargets:
        """The engine's hidden states at the counted predictions, in reading order. Each context is asked for by itself."""
        states = torch.zeros(*batch.inputs.shape, self.head.weight.shape[1])
        for row in range(len(batch.inputs)):
            is_text = batch.documents[row] >= 0
            starts = torch.where(batch.positions[row].eq(0) & is_text)[0].tolist()
            for start, stop in zip(starts, [*starts[1:], int(is_text.sum())], strict=True):
                states[row, start:stop] = self._states(batch.inputs[row, start:stop].tolist())
        return DenseTargets(states[batch.counted].to(self.head.weight), self.head)

    def _states(self, ids: list[int]) -> torch.Tensor:
        # embd_normalize -1: as they are.
        [found] = self.server.ask("/embedding", {"content": ids, "embd_normalize": -1})
        states = torch.tensor(found["embedding"], dtype=torch.float32)
        if states.shape != (len(ids), self.head.weight.shape[1]):
            raise ServerError(
                f"llama.cpp gives hidden states of {list(states.shape)} for {len(ids)} tokens: start it with embeddings"
            )
        return states


def log_probabilities(server: LlamaServer, ids: Sequence[int], size: int) -> NDArray[np.float64]:
    """[size]: the log-probabilities of the next token after these, as the engine itself says."""
    # Nothing is said where the token that is drawn ends the text or a part of a character: it is made to draw a letter, which changes
    # what is drawn and not what is said of it.
    letter = tokens_of(server, "a")[-1]
    asked = {"prompt": list(ids), "n_predict": 1, "n_probs": size, "temperature": 0.0, "logit_bias": [[letter, 1e4]]}
    [found] = server.ask("/completion", {**asked, "cache_prompt": True})["completion_probabilities"]
    said = np.full(size, -np.inf)
    for one in found["top_logprobs"]:
        said[one["id"]] = one["logprob"]
    return said


def tokens_of(server: LlamaServer, text: str, *, special: bool = False) -> list[int]:
    """The engine's own tokens of a text; `special`: the text's `<|...|>` are what they look like, and BOS stands before where it does."""
    return server.ask("/tokenize", {"content": text, "add_special": special, "parse_special": special})["tokens"]


def speed_of(server: LlamaServer, ids: Sequence[int], *, new_tokens: int = 32) -> tuple[float, float]:
    """(prompt tokens read, tokens written) a second: medians over repeats after a warm-up, by the engine's own clock."""
    asked = {
        "prompt": list(ids),
        "n_predict": new_tokens,
        "temperature": 0.0,
        "cache_prompt": False,
        "ignore_eos": True,
    }
    found = [server.ask("/completion", asked)["timings"] for _ in range(_REPEATS + 1)][1:]
    reads, writes = (statistics.median(one[f"{what}_per_second"] for one in found) for what in ("prompt", "predicted"))
    return float(reads), float(writes)
