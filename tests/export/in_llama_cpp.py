"""A file in llama.cpp beside the model that it was made of."""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from potstill.engines import LlamaServer
from potstill.engines.reading import log_probabilities


def check_says_the_same(file: Path, model: PreTrainedModel, ids: list[int]) -> None:
    """Of 16 bits: the next token after these is as likely in llama.cpp as in torch."""
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1).numpy()
    with LlamaServer(file, context=32, threads=1) as server:
        theirs = log_probabilities(server, ids, model.config.vocab_size)
    assert abs((np.exp(ours) * (ours - theirs)).sum()) < 1e-4
    assert np.abs(ours - theirs).max() < 0.05
    assert ours.max() - ours.min() > 3  # not flat: order and signs matter
