"""Which number format trains faster here. Asked of the device, because flags and model names don't tell."""

from __future__ import annotations

import time
from functools import cache

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

# bf16 has 8 bits of mantissa: it has to pay for what it loses.
_WORTHWHILE = 1.3
_ROWS, _WIDTH, _WIDE = 256, 512, 1536
# At least so many, however long they take: on a busy machine one of them may have waited for its turn.
_ROUNDS = 4


def this_device() -> torch.device:
    """Where this process computes: the device Accelerate gives it, with one process or many."""
    return torch.device(PartialState().device or "cpu")


def on_this_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, moved there."""
    return model.to(this_device())  # type: ignore[arg-type]  # transformers wraps `to` and loses its type


def faster_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where one training step of a linear layer is at least 1.3 times as fast in it, otherwise float32.

    Takes a fifth of a second the first time a device is asked, nothing afterwards.
    """
    return _measured(torch.device(device))


@torch.no_grad()
def holds_exactly(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Whether the model's weights lose nothing in this dtype, as those of a checkpoint that was written in it."""
    return all(bool((weight.to(dtype).to(weight.dtype) == weight).all()) for weight in model.parameters())


def hold_in_(model: PreTrainedModel, dtype: torch.dtype, *, rounds: bool = False) -> None:
    """Cast the model's weights in place where they lose nothing by it (`rounds`: also where they do), and only them: buffers
    (rotary frequencies) stay as they are."""
    if dtype == model.dtype or not (rounds or holds_exactly(model, dtype)):
        return
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def matmul_speed(device: torch.device | str, dtype: torch.dtype) -> float:
    """Floating point operations a second of a linear layer's training step (three matmuls), casts included."""
    return 6 * _ROWS * _WIDTH * _WIDE / _seconds(torch.device(device), dtype)


@cache
def _measured(device: torch.device) -> torch.dtype:
    # One thread: several wait for each other where others work too, and the wait would hide which format is faster.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        full, half = _seconds(device, torch.float32), _seconds(device, torch.bfloat16)
    finally:
        torch.set_num_threads(threads)
    return torch.bfloat16 if full > _WORTHWHILE * half else torch.float32


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest of several rounds: forward, gradient of the rows, gradient of the weight, casts as under autocast."""
    weight = torch.full((_WIDE, _WIDTH), 0.5, device=device)
    inputs = torch.full((_ROWS, _WIDTH), 0.5, device=device, dtype=dtype)
    best, stop, rounds = float("inf"), time.perf_counter() + 0.025, 0
    while rounds <= _ROUNDS or time.perf_counter() < stop:
        start = time.perf_counter()
        cast = weight.to(dtype)
        outputs = inputs @ cast.T
        (outputs @ cast).sum()
        (outputs.T @ inputs).float().sum()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        if rounds > 0:  # the first one warms up
            best = min(best, time.perf_counter() - start)
        rounds += 1
    return best
