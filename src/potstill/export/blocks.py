"""Weights as GGUF's blocks of bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.errors import ModelError
from potstill.export.grid import codes
from potstill.export.k_quants import K_BLOCK, q4_k, q6_k

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

GgufKind = Literal["f16", "bf16", "q8_0", "q6_k", "q4_k_m", "q4_0", "q4_1"]
BLOCK = 32
# What the embedding and the head are kept in: every prediction goes through them, and they are read once a token.
_EMBEDDINGS: Mapping[GgufKind, str] = {"q4_0": "q8_0", "q4_1": "q8_0", "q4_k_m": "q6_k"}
KINDS: tuple[GgufKind, ...] = ("f16", "bf16", "q8_0", "q6_k", "q4_k_m", "q4_0", "q4_1")
# What llama.cpp takes where 256 doesn't divide a row.
_OF_SMALLER_BLOCKS = {"q4_k": "q5_0", "q6_k": "q8_0"}
_LAYER = re.compile(r"blk\.(\d+)\.")
_OF_EMBEDDINGS = ("token_embd.weight", "output.weight")
# Read by rows and added, not multiplied.
IN_FULL = ("position_embd.weight",)


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
        why = " (other K- and IQ-types are written by llama.cpp's own llama-quantize alone: give it the f16 file)"
    raise ModelError(f"there is no GGUF type {name!r} here: choose among {', '.join(KINDS)}{why}")


def stored(name: str, tensor: Tensor, kind: GgufKind, *, num_layers: int) -> Stored:
    """A tensor as it stands in a file of this type: vectors in float32, matrices in blocks.

    Where 256 doesn't divide the rows of a K-type they are of the next larger type of 32; where 32 doesn't, f16.
    ModelError for weights that are no finite numbers, or that the type can't hold.
    """
    values = tensor.detach().float().cpu().contiguous()
    most = values.abs().max()
    if not torch.isfinite(most):
        raise ModelError(
            f"{name} has weights that are NaN or infinite: the model is damaged, or its training went astray"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        found = _stored(name, values, kind, num_layers)
        # Scales are f16, and no larger than the weights.
        if most > torch.finfo(torch.float16).max and not torch.isfinite(values_of(found)).all():
            raise ModelError(
                f"{name} has a weight of {most:.3g}, which {found.kind.name.lower()} can't hold: write bf16"
            )
    return found


def values_of(one: Stored) -> Tensor:
    """The numbers that an engine reads from it, in float32."""
    import gguf

    return torch.from_numpy(np.array(gguf.quants.dequantize(one.data, one.kind), dtype=np.float32))


def _stored(name: str, values: Tensor, kind: GgufKind, num_layers: int) -> Stored:
    import gguf

    types = gguf.GGMLQuantizationType
    if values.ndim == 1 or name in IN_FULL:
        return Stored(values.numpy(), types.F32)
    wanted = _wanted(name, kind, num_layers)
    if values.shape[-1] % K_BLOCK:
        wanted = _OF_SMALLER_BLOCKS.get(wanted, wanted)
    if wanted.startswith("q") and values.shape[-1] % BLOCK:
        wanted = "f16"
    if wanted == "f16":
        return Stored(values.numpy().astype(np.float16), types.F16)
    if wanted == "q4_0":
        return Stored(_four_bits(values), types.Q4_0)
    found = types[wanted.upper()]
    if wanted in _OF_SMALLER_BLOCKS:
        return Stored((q4_k if wanted == "q4_k" else q6_k)(values.numpy()), found)
    return Stored(gguf.quants.quantize(values.numpy(), found), found)


def _wanted(name: str, kind: GgufKind, num_layers: int) -> str:
    """The type of a matrix, were there no rows that it can't hold. Q4_K_M is llama.cpp's mixture of Q4_K and Q6_K."""
    if name in _OF_EMBEDDINGS:
        return _EMBEDDINGS.get(kind, kind)
    if kind != "q4_k_m":
        return kind
    found = _LAYER.match(name)
    layer, first = int(found[1]) if found else 0, num_layers // 8
    is_worth_more = layer < first or layer >= 7 * num_layers // 8 or (layer - first) % 3 == 2
    is_fine = "attn_qkv" in name or (is_worth_more and ("attn_v." in name or "ffn_down." in name))
    return "q6_k" if is_fine else "q4_k"


def _four_bits(values: Tensor) -> NDArray[np.uint8]:
    """Q4_0 on our own grid: a block is an f16 scale, then codes plus 8, the first sixteen in the low halves of the bytes."""
    q, scales = codes(values, BLOCK, dtype=torch.float16)
    nibbles = (q.numpy() + 8).astype(np.uint8).reshape(-1, 2, BLOCK // 2)
    packed = nibbles[:, 0] | (nibbles[:, 1] << np.uint8(4))
    heads = scales.to(torch.float16).numpy().reshape(-1, 1).view(np.uint8)
    return np.concatenate([heads, packed], axis=-1).reshape(len(values), -1)
