"""A student that has learned nothing yet."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.models import check_head
from potstill.students.configs import ConfigValue, by_layer, changed_config, copy_generation_config_


def fresh(config_of: PreTrainedModel, changes: Mapping[str, ConfigValue], seed: int) -> PreTrainedModel:
    """A model of the same family with random weights, shaped as `config_of` but for the changed settings.

    Per-layer lists keep their beginning when layers get fewer, so a repeating pattern goes on repeating. The weights, in
    float32, are a function of the configuration and the seed. Raises ModelError for a setting the family hasn't got, and for settings
    that don't fit together.
    """
    _check_names(config_of.config, changes)
    family = type(config_of).__name__
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            config = changed_config(config_of.config, _kept_layers(config_of.config, changes), changes)
            kind: Any = type(config_of)
            student = kind._from_config(config, dtype=torch.float32)
            if student.device.type != "meta":
                check_head(student)
        except ModelError:
            raise
        except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"no {family} can be made with {dict(changes)}: {reason}") from error
    copy_generation_config_(student, config_of)
    return student.to(config_of.device)


def _kept_layers(config: PreTrainedConfig, changes: Mapping[str, ConfigValue]) -> range:
    num_layers, num_wanted = config.num_hidden_layers, config.num_hidden_layers
    for name in ("num_hidden_layers", config.attribute_map.get("num_hidden_layers", "num_hidden_layers")):
        num_wanted = changes.get(name, num_wanted)
    if not isinstance(num_wanted, int) or num_wanted < 1:
        raise ModelError(f"num_hidden_layers must be a whole number of at least 1, found {num_wanted!r}")
    if num_wanted > num_layers and (lists := [name for name in by_layer(config) if name not in changes]):
        raise ModelError(
            f"{num_wanted} layers are more than the {num_layers} described: give {', '.join(lists)} for all of them too"
        )
    return range(num_wanted)


def _check_names(config: PreTrainedConfig, changes: Mapping[str, ConfigValue]) -> None:
    known = {*config.to_dict(), *config.attribute_map}
    for name in changes:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))}"
            raise ModelError(f"{config.model_type} has no setting {name!r}: {hint}")
