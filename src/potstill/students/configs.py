"""One configuration made from another, with everything that is said layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

from transformers import PreTrainedConfig, PreTrainedModel

ConfigValue = bool | int | float | str | Sequence[int] | Sequence[str]

# Lists that say nothing about layers, however long they are.
_NOT_BY_LAYER = {"architectures"}


def changed_config(
    config: PreTrainedConfig, layers: Sequence[int], changes: Mapping[str, ConfigValue]
) -> PreTrainedConfig:
    """The configuration of a model whose layer i is like `layers[i]` of the configured one, and otherwise with `changes`.

    Lists with one entry a layer (`layer_types`, `no_rope_layers`, `mlp_layer_types`, a list of `intermediate_size`s...)
    follow the layers, whatever they are called. Goes through the dictionary that would be saved, so the result reloads.
    """
    settings = config.to_dict()
    names = config.attribute_map
    for name in set(by_layer(config)) - changes.keys():
        settings[name] = [settings[name][layer] for layer in layers]
    settings[names.get("num_hidden_layers", "num_hidden_layers")] = len(layers)
    settings |= {names.get(name, name): value for name, value in changes.items()}
    made = type(config).from_dict(deepcopy(settings))
    made._attn_implementation = config._attn_implementation  # chosen when a model is loaded, and never saved
    return made


def by_layer(config: PreTrainedConfig) -> list[str]:
    """The names of the settings that are lists of one entry a layer."""
    return [
        name
        for name, value in config.to_dict().items()
        if isinstance(value, list | tuple)
        and len(value) == config.num_hidden_layers
        and name not in _NOT_BY_LAYER
        and not name.endswith("_token_id")
    ]


def copy_generation_config_(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """How it writes; encoders and classifiers don't."""
    if (found := getattr(teacher, "generation_config", None)) is not None:
        student.generation_config = deepcopy(found)
