"""What is scored is what is trained: one batch has one loss.

Conformance list: (14) evaluation and training give the same nats for the same predictions, hard and soft.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.data import PackedBatches, TokenCorpus
from potstill.evaluation import measure
from potstill.losses import SoftLabelLoss, linear_loss
from potstill.models import hidden_states
from potstill.teachers import LiveTeacher

TOKENS, LENGTH = 53, 12


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=TOKENS, **shape, bos_token_id=1, eos_token_id=2, initializer_range=0.2)
    return LlamaForCausalLM(config).double().eval()


def corpus() -> TokenCorpus:
    """Ragged documents, a third of whose tokens don't count."""
    draw, sizes = np.random.default_rng(0), [30, 5, 12, 2, 19]
    offsets = np.cumsum([0, *sizes])
    weights = (draw.random(offsets[-1]) > 0.3).astype(np.float32)
    weights[offsets[:-1]] = 0
    ids = draw.integers(3, TOKENS, offsets[-1]).astype(np.uint32)
    keys = tuple(map(str, sizes))
    return TokenCorpus(ids, weights, offsets, keys, np.zeros(len(sizes), np.bool_), np.ones(TOKENS, np.uint16))


@pytest.mark.parametrize("pack", [True, False])
def test_evaluation_and_training_give_the_same_nats(pack):
    student, teacher, text = model(1), LiveTeacher(model(2), size=TOKENS), corpus()
    scored = measure(student, text, length=LENGTH, teacher=teacher, size=TOKENS)
    batches = PackedBatches(text, LENGTH, 1, seed=3, pack=pack)
    sums = {"soft": 0.0, "hard": 0.0}
    for _, batch in zip(range(batches.rows_per_epoch), batches.from_step(0), strict=False):
        targets, counted = teacher.label(batch), batch.counted
        states = hidden_states(student, batch, size=TOKENS)
        loss = linear_loss(states, targets, batch.targets[counted], batch.weights[counted], SoftLabelLoss())
        sums = {name: value + loss.parts[name].item() for name, value in sums.items()}
    assert sums["hard"] == pytest.approx(scored.nll.sum(), rel=1e-9)
    assert sums["soft"] == pytest.approx(scored.kl.sum(), rel=1e-9)
