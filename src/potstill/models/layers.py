"""Where a model's layers are, and how one is passed by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import ModelError


def layers_path(model: PreTrainedModel) -> str:
    """The name of the list of layers: the outermost list with as many entries as the configuration says layers."""
    num_layers = model.config.num_hidden_layers
    paths: list[str] = []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{path}.") for path in paths)
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and not is_inside:
            paths.append(name)
    if len(paths) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(paths)} lists of {num_layers} layers ({', '.join(paths) or 'none'}) where "
            "one is needed: use a plain decoder or encoder, or start the student from a path"
        )
    return paths[0]


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers, first to last. ModelError as `layers_path`."""
    return list(model.get_submodule(layers_path(model)).children())


@contextmanager
def without_layer(layer: nn.Module) -> Iterator[None]:
    """The layer hands on what it is given."""

    def pass_by(_: nn.Module, arguments: tuple, named: dict, output: Tensor | tuple) -> Tensor | tuple:
        given = arguments[0] if arguments else named["hidden_states"]
        return given if isinstance(output, Tensor) else (given, *output[1:])

    handle = layer.register_forward_hook(pass_by, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
