"""Random text, small students; the tiny models of all families live beside the tests of the room `models`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.types import Batch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
TOKENS = 61


@dataclass(frozen=True)
class RandomText:
    """Ragged rows of random tokens, two contexts a row now and then, as a function of the step alone."""

    rows: int = 4
    width: int = 12

    def from_step(self, step: int) -> Iterator[Batch]:
        while True:
            generator = torch.Generator().manual_seed(1000 + step)
            tokens = torch.randint(0, TOKENS, (self.rows, self.width + 1), generator=generator)
            weights = (torch.rand(self.rows, self.width, generator=generator) > 0.3).float()
            weights[0, :8] = 0
            positions = torch.arange(self.width).repeat(self.rows, 1)
            positions[1, 7:] = torch.arange(self.width - 7)
            documents = torch.arange(self.rows)[:, None].repeat(1, self.width)
            documents[1, 7:] = 100
            yield Batch(tokens[:, :-1], tokens[:, 1:], weights, documents, positions, positions)
            step += 1


@pytest.fixture
def text() -> RandomText:
    return RandomText()


@pytest.fixture
def new_student() -> Callable[..., LlamaForCausalLM]:
    def build(*, dropout: float = 0.0, seed: int = 3, tied: bool = True) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=TOKENS,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            attention_dropout=dropout,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
        )
        return LlamaForCausalLM(config)

    return build
