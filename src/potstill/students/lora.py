"""A student that learns through low-rank adapters alone (LoRA, Hu et al. 2021), by peft; merged, it is a plain model again."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from potstill.errors import MissingExtraError, ModelError


def add_lora(
    model: PreTrainedModel, *, rank: int, alpha: float, targets: Sequence[str] | None = None
) -> PreTrainedModel:
    """Put adapters beside linear layers, in place: W + (alpha / rank) · B A, B zero at first; all else is frozen. The same each time.

    `targets` are endings of the names of layers (q_proj, down_proj, ...); None = all linear layers but the head. Raises MissingExtraError
    without peft, ModelError where no layer has such a name.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", extra="lora", purpose="Learning through adapters (training.lora)")
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    wanted: Any = _linear_layers(model) if targets is None else list(targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted, bias="none")  # type: ignore[arg-type]  # halves are well
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="fan_in_fan_out"
        )  # of GPT-2's Conv1D, which peft sets right by itself
        torch.manual_seed(0)
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:
            raise ModelError(
                f"no adapter can be put into {type(model).__name__}: {' '.join(str(error).split())[:200]}"
            ) from error
    return model


def merge_lora_(model: PreTrainedModel) -> PreTrainedModel:
    """Add what the adapters learned to the weights, in place, and take them out; a model without any stays as it is."""
    if importlib.util.find_spec("peft") is None:
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        delattr(model, "peft_config")
    return model.requires_grad_(True)


def _linear_layers(model: PreTrainedModel) -> set[str]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name
        for name, module in model.base_model.named_modules(prefix=model.base_model_prefix)
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
