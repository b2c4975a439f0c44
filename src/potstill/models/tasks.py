"""What a model was made to predict: the next token, a hidden token, or a class of the whole text."""

from __future__ import annotations

from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from potstill.errors import ModelError

# causal: the token after each one read. masked: a token that was hidden. classes: one class a text.
Task = Literal["causal", "masked", "classes"]
_CLASSES, _MASKED = "ForSequenceClassification", "ForMaskedLM"


def task_of(model: PreTrainedModel) -> Task:
    """By its class."""
    return task_of_name(type(model).__name__)


def task_of_name(name: str) -> Task:
    """By the name of a class, as in a config.json's `architectures`."""
    if name.endswith(_CLASSES):
        return "classes"
    return "masked" if name.endswith(_MASKED) else "causal"


def classes_of(model: PreTrainedModel) -> dict[str, int] | None:
    """Names of a classifier's classes and their numbers; None for what is no classifier."""
    if task_of(model) != "classes":
        return None
    return {str(name): int(number) for name, number in (model.config.label2id or {}).items()}


def head_layer(model: PreTrainedModel) -> nn.Linear:
    """The last linear layer: over the vocabulary, or over the classes. ModelError where there is none."""
    if task_of(model) != "classes":
        layer = model.get_output_embeddings()
        if isinstance(layer, nn.Linear):
            return layer
        raise ModelError(
            f"{type(model).__name__} has no linear head over a vocabulary (found {type(layer).__name__}): "
            "use a language model with unquantised weights"
        )
    inside = {id(module) for module in model.base_model.modules()}
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels and id(module) not in inside
    ]
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layer over its {model.config.num_labels} classes")
    return found[-1]
