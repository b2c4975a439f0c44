"""Small models to ask how an architecture behaves: of few layers and tokens, random, or without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.students.configs import ConfigValue, changed_config

_PROBE_TOKENS, _PROBE_LAYERS, _PROBE_VOCABULARY = 24, 2, 64


def without_memory(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration, shapes alone. ModelError where there can be none."""
    try:
        with torch.device("meta"):
            return kind._from_config(config)
    except (
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        ArithmeticError,
        AssertionError,
        StrictDataclassError,
    ) as error:
        raise ModelError(
            f"no {config.model_type} of that shape can be made: {' '.join(str(error).split())[:200]}"
        ) from error


def small(config: PreTrainedConfig, changes: Mapping[str, ConfigValue]) -> PreTrainedConfig:
    """The same with few layers and tokens, of the full width; for looking."""
    tokens: dict[str, Any] = {
        name: (0 if isinstance(value, int) else None)
        for name, value in config.to_dict().items()
        if name.endswith("token_id") and not isinstance(value, dict)
    }
    layers = range(min(_PROBE_LAYERS, config.num_hidden_layers))
    return changed_config(config, layers, {**changes, **tokens, "vocab_size": _PROBE_VOCABULARY})


def noisy(kind: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """A random model in which every weight says something; the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind._from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.3 if weight.ndim == 1 else 1.5 / min(weight.shape) ** 0.5)
    return model


def answers_apart(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """How far two small models' answers are apart, over their size."""
    tokens = torch.arange(_PROBE_TOKENS).remainder(_PROBE_VOCABULARY - 3).add(3)[None]
    with torch.no_grad():
        first, second = (model(input_ids=tokens)[0].float() for model in (one, other))
    return ((first - second).abs().max() / first.abs().max().clamp_min(1e-30)).item()
