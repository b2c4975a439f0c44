"""Memory and time of a training, worked out beforehand from shapes and one measurement of this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from potstill.models import head_of, matmul_speed, size_of

# Of a layer's matmul speed that a whole training step reaches: norms, softmaxes, the optimizer and small matmuls are the rest.
_REACHED = 0.6
# Values a layer keeps for its backward pass, a token: in widths of the hidden state, and in widths of the FFN (Korthikanti et al.
# 2022, arXiv:2205.05198, eq. 2, for a gated FFN and an attention that keeps no square of the length).
_KEPT_HIDDEN, _KEPT_FFN = 12, 4
_LOSS_CHUNK_BYTES = 384 * 2**20  # both models' logits of a chunk, at most (losses/engine.py)


@dataclass(frozen=True)
class Estimate:
    """What training is expected to need.

    memory        bytes by what they are for
    seconds_soft  of the distilled student, its teacher's work included
    seconds_hard  of the control
    """

    memory: dict[str, int]
    seconds_soft: float
    seconds_hard: float


def estimate(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    *,
    tokens: int,
    micro_rows: int,
    length: int,
    dtype: torch.dtype,
    device: str,
) -> Estimate:
    """For `tokens` read by a student (both may be on the meta device) in passes of micro_rows × length; AdamW in fp32.

    A matmul with N weights takes 2N operations a token forward, 4N backward (Kaplan et al. 2020, arXiv:2001.08361, 2.1).
    """
    speed = _REACHED * matmul_speed(device, dtype)
    learning, marking = 6 * _operations(student, length), 2 * _operations(teacher, length)
    memory = memory_of(teacher, student, micro_rows=micro_rows, length=length, dtype=dtype)
    return Estimate(memory, tokens * (learning + marking) / speed, tokens * learning / speed)


def memory_of(
    teacher: PreTrainedModel, student: PreTrainedModel, *, micro_rows: int, length: int, dtype: torch.dtype
) -> dict[str, int]:
    """Bytes by what they are for."""
    trained = size_of(student).total
    config, in_flight = student.config, micro_rows * length
    ffn = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    kept = config.num_hidden_layers * (_KEPT_HIDDEN * config.hidden_size + _KEPT_FFN * int(ffn))
    return {
        "teacher": size_of(teacher).bytes,
        "student": 4 * trained,
        "gradient and optimizer": 3 * 4 * trained,
        "activations": in_flight * kept * dtype.itemsize,
        "loss": min(_LOSS_CHUNK_BYTES, 8 * in_flight * head_of(student).num_tokens)
        + 8 * in_flight * config.hidden_size,
    }


def _operations(model: PreTrainedModel, length: int) -> int:
    """Multiply-adds of one token's forward pass: every weight of a matmul once, and attention to half the context."""
    head = head_of(model).weight.numel()
    attention = model.config.num_hidden_layers * model.config.hidden_size * length
    return size_of(model).non_embedding + head + attention
