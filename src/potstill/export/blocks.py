"""Weights as GGUF's blocks of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.errors import ModelError
from potstill.export.grid import codes

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

GgufKind = Literal["f16", "bf16", "q8_0", "q4_0", "q4_1"]
BLOCK = 32
# What the embedding and the head are kept in: every prediction goes through them, and they are read once a token.
_EMBEDDINGS: Mapping[GgufKind, GgufKind] = {"q4_0": "q8_0", "q4_1": "q8_0"}
KINDS: tuple[GgufKind, ...] = ("f16", "bf16", "q8_0", "q4_0", "q4_1")
_OF_EMBEDDINGS = ("token_embd.weight", "output.weight")
# Read by rows and added, not multiplied.
_IN_FULL = ("position_embd.weight",)


@dataclass(frozen=True)
class Stored:
    """A tensor's bytes [rows, bytes a row], or the numbers themselves where its type is one of numpy's; and the type they are of."""

    data: NDArray
    kind: GGMLQuantizationType


def kind_named(name: str) -> GgufKind:
    """ModelError for one that can't be written here, and why."""
    for kind in KINDS:
        if kind == name.lower():
            return kind
    why = ""
    if "_k" in name.lower() or name.lower().startswith("iq"):
        why = " (K- and IQ-types are written by llama.cpp's own llama-quantize alone: give it the f16 file)"
    raise ModelError(f"there is no GGUF type {name!r} here: choose among {', '.join(KINDS)}{why}")


def stored(name: str, tensor: Tensor, kind: GgufKind) -> Stored:
    """A tensor as it stands in a file of this type: vectors in float32, matrices in blocks, f16 where 32 doesn't divide their rows."""
    import gguf

    types = gguf.GGMLQuantizationType
    values = tensor.detach().float().cpu().contiguous()
    if values.ndim == 1 or name in _IN_FULL:
        return Stored(values.numpy(), types.F32)
    wanted = _EMBEDDINGS.get(kind, kind) if name in _OF_EMBEDDINGS else kind
    if wanted.startswith("q") and values.shape[-1] % BLOCK:
        wanted = "f16"
    if wanted == "f16":
        if values.abs().max() > torch.finfo(torch.float16).max:
            raise ModelError(f"{name} has a weight of {values.abs().max():.3g}, which f16 can't hold: write bf16")
        return Stored(values.numpy().astype(np.float16), types.F16)
    if wanted == "q4_0":
        return Stored(_four_bits(values), types.Q4_0)
    found = types[wanted.upper()]
    return Stored(gguf.quants.quantize(values.numpy(), found), found)


def values_of(one: Stored) -> Tensor:
    """The numbers that an engine reads from it, in float32."""
    import gguf

    return torch.from_numpy(np.array(gguf.quants.dequantize(one.data, one.kind), dtype=np.float32))


def _four_bits(values: Tensor) -> NDArray[np.uint8]:
    """Q4_0 on our own grid: a block is an f16 scale, then codes plus 8, the first sixteen in the low halves of the bytes."""
    q, scales = codes(values, BLOCK, dtype=torch.float16)
    nibbles = (q.numpy() + 8).astype(np.uint8).reshape(-1, 2, BLOCK // 2)
    packed = nibbles[:, 0] | (nibbles[:, 1] << np.uint8(4))
    heads = scales.to(torch.float16).numpy().reshape(-1, 1).view(np.uint8)
    return np.concatenate([heads, packed], axis=-1).reshape(len(values), -1)
