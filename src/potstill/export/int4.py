"""Weights of four or eight bits as compressed-tensors reads them: `grid`, with scales in bfloat16.

The same grid rounds a model for measuring (`rounded`), is learned through (`learning_through_`), and is packed for vLLM and
transformers (`save_packed`). Embeddings, head and norms stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import ModelError
from potstill.export.grid import codes, on_grid
from potstill.models import layers_path, saved_whole

# Kernels of inference engines know the first three; the others are for widths that 32 doesn't divide.
_GROUPS = (128, 64, 32, 16, 8)
_WORD = 32
# By layer: (q, scales) found otherwise than by rounding to nearest.
Codes = Mapping[str, tuple[Tensor, Tensor]]
# By model_type: transformers looks for their layers' full weights when it loads them, and packed ones have none.
_UNLOADABLE = ("modernbert", "modernbert-decoder")


def group_of(model: PreTrainedModel) -> int:
    """The largest of 128, 64, 32, 16 and 8 that divides the inputs of every linear layer. ModelError where there is none."""
    _check_can_be_loaded(model)
    sizes = {layer.in_features for _, layer in quantisable(model)}
    for group in _GROUPS:
        if sizes and all(size % group == 0 for size in sizes):
            return group
    what = f"inputs of {', '.join(map(str, sorted(sizes)))}" if sizes else "no linear layers"
    raise ModelError(f"four-bit weights go in groups of at least 8 inputs, and {type(model).__name__} has {what}")


def checked_group(model: PreTrainedModel, group: int | None) -> int:
    """The group itself, or the model's own where none is given. ModelError for one that doesn't divide the inputs of every layer."""
    if group is None:
        return group_of(model)
    _check_can_be_loaded(model)
    for name, layer in quantisable(model):
        if group < 8 or group % 8 or layer.in_features % group:
            raise ModelError(
                f"groups of {group} don't divide the {layer.in_features} inputs of {name}: "
                f"the largest that divide all are of {group_of(model)}"
            )
    return group


def _check_can_be_loaded(model: PreTrainedModel) -> None:
    if model.config.model_type in _UNLOADABLE:
        raise ModelError(
            f"transformers can't load a {type(model).__name__} with packed weights: leave its weights in full (--to huggingface)"
        )


def quantisable(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers inside the model's layers, by name."""
    path = layers_path(model)
    for name, module in model.get_submodule(path).named_modules():
        if isinstance(module, nn.Linear):
            yield f"{path}.{name}", module


def rounded(model: PreTrainedModel, group: int | None = None, *, bits: int = 4) -> PreTrainedModel:
    """A copy of the model whose linear layers have weights on the grid."""
    group = checked_group(model, group)
    copy = deepcopy(model)
    with torch.no_grad():
        for _, layer in quantisable(copy):
            layer.weight.copy_(on_grid(layer.weight, group, bits=bits))
    return copy


class _Rounding(torch.autograd.Function):
    """On the grid going forward, untouched going backward (Bengio et al. 2013, arXiv:1308.3432). The sum weight + (grid - weight) would be
    off the grid by its rounding."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, group: int) -> Tensor:
        return on_grid(weight, group)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _StraightThrough(nn.Module):
    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on the grid."""
        found = _Rounding.apply(weight, self.group)
        assert isinstance(found, Tensor)
        return found


@contextmanager
def learning_through_(model: PreTrainedModel, group: int | None = None) -> Iterator[PreTrainedModel]:
    """Inside, the model computes with weights on the grid and learns those behind them, which it has afterwards: round or pack them."""
    group = checked_group(model, group)
    layers = [layer for _, layer in quantisable(model)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _StraightThrough(group))
    try:
        yield model
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def bytes_of(model: PreTrainedModel, group: int, *, bits: int = 4) -> int:
    """Of the packed weights: so many bits each and a scale a group in the layers, two bytes each elsewhere."""
    few = sum(layer.weight.numel() for _, layer in quantisable(model))
    rest = sum(parameter.numel() for parameter in model.parameters()) - few
    return bits * few // 8 + 2 * (few // group) + 2 * rest


def save_packed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    group: int | None = None,
    *,
    bits: int = 4,
    found: Codes | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write the model, rounded to four or eight bits, as compressed-tensors reads it (`pack-quantized`): transformers and vLLM load it.

    Give the model itself, not a rounded one: rounding what is rounded finds other scales. `found`: codes and scales of its layers that
    are not the nearest ones (`calibrated`). Whole or not at all, with `beside` and the errors of `save_model`.
    """
    group = checked_group(model, group)
    with saved_whole(folder, beside=beside) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
        for full in (*written.glob("*.safetensors"), *written.glob("*.safetensors.index.json")):
            full.unlink()
        save_file(
            _packed_tensors(model, group, bits, found or {}), written / "model.safetensors", metadata={"format": "pt"}
        )
        config = json.loads((written / "config.json").read_text("utf-8"))
        config["quantization_config"] = _said(model, group, bits)
        config["dtype"] = "bfloat16"
        (written / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _packed_tensors(model: PreTrainedModel, group: int, bits: int, found: Codes) -> dict[str, Tensor]:
    tensors, layers = {}, {name for name, _ in quantisable(model)}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") in layers:
            layer = name.removesuffix(".weight")
            q, scales = found[layer] if layer in found else codes(tensor, group, bits=bits)
            tensors[f"{layer}.weight_packed"] = packed(q, bits)
            tensors[f"{layer}.weight_scale"] = scales.to(torch.bfloat16)
            tensors[f"{layer}.weight_shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
        elif tensor.data_ptr() not in seen:  # tied ones once
            seen.add(tensor.data_ptr())
            kept = tensor.detach().contiguous()
            tensors[name] = kept.to(torch.bfloat16) if kept.is_floating_point() else kept
    return tensors


def _said(model: PreTrainedModel, group: int, bits: int) -> dict[str, object]:
    """How it is packed, and by name every linear layer that isn't: head, classifier, projections outside the layers."""
    layers = {name for name, _ in quantisable(model)}
    others = [name for name, one in model.named_modules() if isinstance(one, nn.Linear) and name not in layers]
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": others,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def packed(q: Int[Tensor, "outputs inputs"], bits: int = 4) -> Int[Tensor, "outputs words"]:
    """As many codes as fit into an int32, each plus half its range, the first in the lowest bits."""
    shifts = bits * torch.arange(_WORD // bits, dtype=torch.int64, device=q.device)
    words = ((q.to(torch.int64) + 2 ** (bits - 1)).unflatten(-1, (-1, _WORD // bits)) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
