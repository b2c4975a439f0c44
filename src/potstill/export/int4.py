"""Weights of four bits on the grid of compressed-tensors: symmetric, one scale for `group` inputs of an output, rounded to nearest.

    w ~ scale * q,  q in -8 ... 7,  scale = 2 max|w| / 15 in bfloat16

The scale is that of compressed-tensors: the largest weight lies half a step outside. The same grid rounds a model for measuring
(`rounded`), is learned through (`learning_through_`), and is packed for vLLM and transformers (`save_packed`).
Embeddings, head and norms stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import ModelError
from potstill.models import layers_path, save_model

# Kernels of inference engines know the first three; the others are for widths that 32 doesn't divide.
_GROUPS = (128, 64, 32, 16, 8)
_LOWEST, _HIGHEST = -8, 7


def group_of(model: PreTrainedModel) -> int:
    """The largest of 128, 64, 32, 16 and 8 that divides the inputs of every linear layer. ModelError where there is none."""
    sizes = {layer.in_features for _, layer in quantisable(model)}
    for group in _GROUPS:
        if sizes and all(size % group == 0 for size in sizes):
            return group
    what = f"inputs of {', '.join(map(str, sorted(sizes)))}" if sizes else "no linear layers"
    raise ModelError(f"four-bit weights go in groups of at least 8 inputs, and {type(model).__name__} has {what}")


def quantisable(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers inside the model's layers, by name."""
    path = layers_path(model)
    for name, module in model.get_submodule(path).named_modules():
        if isinstance(module, nn.Linear):
            yield f"{path}.{name}", module


def codes(
    weight: Float[Tensor, "outputs inputs"], group: int
) -> tuple[Int[Tensor, "outputs inputs"], Float[Tensor, "outputs groups"]]:
    """(q, scales) of a weight."""
    parts = weight.detach().float().unflatten(-1, (-1, group))
    scales = (2 * parts.abs().amax(-1) / (_HIGHEST - _LOWEST)).to(torch.bfloat16).float()
    scales = scales.clamp_min(torch.finfo(torch.bfloat16).tiny)
    return (parts / scales[..., None]).round().clamp(_LOWEST, _HIGHEST).flatten(-2).to(torch.int8), scales


def on_grid(weight: Float[Tensor, "outputs inputs"], group: int) -> Float[Tensor, "outputs inputs"]:
    """The weight as it will be: scale times q."""
    q, scales = codes(weight, group)
    return (q.float().unflatten(-1, (-1, group)) * scales[..., None]).flatten(-2).to(weight.dtype)


def rounded(model: PreTrainedModel, group: int | None = None) -> PreTrainedModel:
    """A copy of the model whose linear layers have weights on the grid."""
    group = group or group_of(model)
    copy = deepcopy(model)
    with torch.no_grad():
        for _, layer in quantisable(copy):
            layer.weight.copy_(on_grid(layer.weight, group))
    return copy


class _StraightThrough(nn.Module):
    """On the grid going forward, untouched going backward (Bengio et al. 2013, arXiv:1308.3432)."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on the grid."""
        return weight + (on_grid(weight, self.group) - weight).detach()


@contextmanager
def learning_through_(model: PreTrainedModel, group: int | None = None) -> Iterator[PreTrainedModel]:
    """Inside, the model computes with weights on the grid and learns those behind them, which it has afterwards: round or pack them."""
    group = group or group_of(model)
    layers = [layer for _, layer in quantisable(model)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _StraightThrough(group))
    try:
        yield model
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def bytes_of(model: PreTrainedModel, group: int) -> int:
    """Of the packed weights: half a byte each and a scale a group where there are four bits, two bytes each elsewhere."""
    four = sum(layer.weight.numel() for _, layer in quantisable(model))
    rest = sum(parameter.numel() for parameter in model.parameters()) - four
    return four // 2 + 2 * (four // group) + 2 * rest


def save_packed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, group: int | None = None
) -> None:
    """Write the model, rounded, as compressed-tensors reads it (`pack-quantized`): transformers and vLLM load it.

    Give the model itself, not a rounded one: rounding what is rounded finds other scales.
    """
    group = group or group_of(model)
    save_model(model, tokenizer, folder)
    tensors, layers = {}, {name for name, _ in quantisable(model)}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") in layers:
            q, scales = codes(tensor, group)
            layer = name.removesuffix(".weight")
            tensors[f"{layer}.weight_packed"] = packed(q)
            tensors[f"{layer}.weight_scale"] = scales.to(torch.bfloat16)
            tensors[f"{layer}.weight_shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
        elif tensor.data_ptr() not in seen:  # tied ones once
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().to(torch.bfloat16).contiguous()
    for old in (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")):
        old.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def packed(q: Int[Tensor, "outputs inputs"]) -> Int[Tensor, "outputs words"]:
    """Eight codes an int32, each plus 8, the first in the lowest bits."""
    shifts = 4 * torch.arange(8, dtype=torch.int64)
    words = ((q.to(torch.int64) + 8).unflatten(-1, (-1, 8)) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
