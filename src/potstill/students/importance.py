"""How much each part of a model matters, from one forward pass over some text (Minitron, Muralidharan et al. 2024, section 2.2).

A neuron, head or channel matters as much as it is active: the mean of |x| over a sequence, the root of the sum of squares over
sequences, in fp32 where it is consumed: neurons and heads at the input of the projection behind them, channels behind the norms of the
layers. A run of layers matters as much as the hidden state turns while it passes through them: 1 - cos.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.data import TokenCorpus, check_learnable, ordered_batches
from potstill.errors import ModelError, RunDirectoryError
from potstill.losses import HARD_LABELS, linear_loss
from potstill.models import hidden_states
from potstill.models.asking import device_of, evaluating
from potstill.models.layers import layers_of, without_layer
from potstill.students.anatomy import AXES, Axis, AxisName, axis_of, layer_of, norms_over

_CHECK = "check"


@dataclass(frozen=True)
class Importance:
    """Scores, float64; an axis that can't be cut has none (size 0).

    ffn        [layers, neurons]
    heads      [layers, query heads]
    hidden     [channels], summed over the norms of all layers
    turns      [layers + 1, layers + 1]: mean of 1 - cos of the hidden states before layer i and before layer j (behind all for the last)
    sequences  [1]: how many were read
    losses     [layers]: how much the loss rises without each layer, nats a token; none where it wasn't measured (a pass a layer)
    """

    ffn: NDArray[np.float64]
    heads: NDArray[np.float64]
    hidden: NDArray[np.float64]
    turns: NDArray[np.float64]
    sequences: NDArray[np.int64]
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def block_influence(self) -> NDArray[np.float64]:
        """[layers]: how much each layer turns the hidden state (ShortGPT, Men et al. 2024, equation 1)."""
        return self.turns.diagonal(1)

    @classmethod
    def unmeasured(cls, model: PreTrainedModel) -> Importance:
        """No scores: what is cut by these keeps the first of everything. For shapes, not for students."""
        layers, nothing = model.config.num_hidden_layers, np.zeros(0)
        turns = np.zeros((layers + 1, layers + 1))
        return cls(nothing, nothing, nothing, turns, np.zeros(1, np.int64), np.zeros(layers))

    def save(self, path: Path) -> None:
        """As safetensors, with a check of the scores. RunDirectoryError when the file can't be written."""
        scores = {each.name: np.ascontiguousarray(getattr(self, each.name)) for each in fields(self)}
        try:
            save_file({**scores, _CHECK: _check_of(scores)}, path)
        except (OSError, SafetensorError) as error:
            raise RunDirectoryError(f"can't write {path}: {error}. Free some space, then start again") from error

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Saved scores; ModelError where there are none, or not those that were saved."""
        try:
            scores = load_file(path)
            check = scores.pop(_CHECK, None)
            if check is not None and not np.array_equal(check, _check_of(scores)):
                raise ValueError("it is not what was written: delete it and start again")
            return cls(**scores)
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            raise ModelError(f"{path} holds no importance scores: {error}") from error


def _check_of(scores: Mapping[str, NDArray]) -> NDArray[np.uint32]:
    found = 0
    for name in sorted(scores):
        found = zlib.crc32(f"{name} {scores[name].dtype.str} {scores[name].shape}".encode(), found)
        found = zlib.crc32(scores[name].tobytes(), found)
    return np.array([found], dtype=np.uint32)


def measure_importance(model: PreTrainedModel, corpus: TokenCorpus, *, length: int, rows: int = 4) -> Importance:
    """Read the corpus in windows of `length` tokens, each a sequence. Padding counts nowhere, and neither does the number of rows."""
    check_learnable(corpus)
    axes = dict(cuttable_axes(model))
    sums: dict[str, Tensor] = {}
    taken: list[Tensor] = []
    mask = torch.empty(0)

    def rows_of(x: Tensor) -> Tensor:
        """OPT lays the sequences of a batch end to end."""
        return x if x.ndim == 3 else x.unflatten(0, mask.shape)

    def add(name: str, active: Tensor) -> None:
        of_sequence = (active.float().abs() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = of_sequence.double().square().sum(0)
        sums[name] = sums[name] + found if name in sums else found

    sequences, positions, turns = 0, 0.0, torch.zeros(())
    with evaluating(model), ExitStack() as hooks:
        for name, module, at_input in _places(model, axes):
            hooks.enter_context(_Hook(module, at_input, lambda x, name=name: add(name, rows_of(x))))
        layers = layers_of(model)
        for layer in layers:
            hooks.enter_context(_Hook(layer, True, lambda x: taken.append(rows_of(x))))
        hooks.enter_context(_Hook(layers[-1], False, lambda x: taken.append(rows_of(x))))
        for batch in ordered_batches(corpus, length=length, rows=rows):
            batch = batch.to(device_of(model))
            mask = (batch.documents >= 0).float()
            taken.clear()
            hidden_states(model, batch)
            states = torch.stack([functional.normalize(state[mask > 0].float(), dim=-1) for state in taken]).flatten(1)
            turns = turns + (states @ states.T).double().cpu()
            sequences, positions = sequences + len(mask), positions + float(mask.sum())
    if not positions:
        raise ModelError("no sequence was read: give text to look at")
    return _scores(
        model, axes, {name: one.sqrt().cpu().numpy() for name, one in sums.items()}, 1 - turns / positions, sequences
    )


def with_losses(
    importance: Importance, model: PreTrainedModel, corpus: TokenCorpus, *, length: int, rows: int = 4
) -> Importance:
    """The same scores, and how much the loss rises without each layer: as many passes as there are layers, and one more."""
    layers = layers_of(model)
    with evaluating(model):
        whole = _loss(model, corpus, length, rows)
        rises = []
        for layer in layers:
            with without_layer(layer):
                rises.append(_loss(model, corpus, length, rows) - whole)
    return replace(importance, losses=np.array(rises))


def _loss(model: PreTrainedModel, corpus: TokenCorpus, length: int, rows: int) -> float:
    """Nats a token."""
    total, weight = 0.0, 0.0
    for batch in ordered_batches(corpus, length=length, rows=rows):
        batch = batch.to(device_of(model))
        states = hidden_states(model, batch)
        tokens, weights = batch.targets[batch.counted], batch.weights[batch.counted]
        loss = linear_loss(states, None, tokens, weights, HARD_LABELS)
        total, weight = total + float(loss.total), weight + float(loss.weight)
    return total / weight


def cuttable_axes(model: PreTrainedModel) -> Iterator[tuple[AxisName, Axis]]:
    """The axes that this architecture lets be cut."""
    for name in AXES:
        try:
            yield name, axis_of(model, name)
        except ModelError:
            continue


def _places(model: PreTrainedModel, axes: dict[AxisName, Axis]) -> Iterator[tuple[str, nn.Module, bool]]:
    """(axis and layer, module, whether to look at its input) of everything that is watched."""
    for name, axis in axes.items():
        if name == "hidden":
            for norm in norms_over(model, axis):
                if layer_of(norm) is not None:
                    yield f"hidden/{norm}", model.get_submodule(norm.removesuffix(".weight")), False
            continue
        for one in axis.slices:
            module = model.get_submodule(one.parameter.rpartition(".")[0])
            # torch's Linear has its inputs in dimension 1, GPT-2's Conv1D in dimension 0.
            inputs = {nn.Linear: 1, Conv1D: 0}.get(type(module))
            if one.parameter.endswith(".weight") and one.dim == inputs:
                yield f"{name}/{layer_of(one.parameter)}", module, True


class _Hook:
    """Looks at what goes into a module, or comes out of it, while it is entered."""

    def __init__(self, module: nn.Module, at_input: bool, look: Callable[[Tensor], None]) -> None:
        self.module, self.at_input, self.look = module, at_input, look

    def __enter__(self) -> None:
        if self.at_input:
            self.handle = self.module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            self.handle = self.module.register_forward_hook(self._after)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _before(self, _: nn.Module, arguments: tuple, named: dict) -> None:
        self.look(arguments[0] if arguments else named["hidden_states"])

    def _after(self, _module: nn.Module, _arguments: tuple, output: Tensor | tuple) -> None:
        self.look(output if isinstance(output, Tensor) else output[0])


def _scores(
    model: PreTrainedModel,
    axes: dict[AxisName, Axis],
    found: dict[str, NDArray[np.float64]],
    turns: Tensor,
    sequences: int,
) -> Importance:
    layers = range(model.config.num_hidden_layers)
    nothing = np.zeros(0)
    ffn = np.stack([found[f"ffn/{layer}"] for layer in layers]) if "ffn" in axes else nothing
    heads = nothing
    if "heads" in axes:
        entries = np.stack([found[f"heads/{layer}"] for layer in layers])
        heads = np.linalg.norm(entries.reshape(len(layers), axes["heads"].size, -1), axis=-1)
    of_norms = [one for name, one in found.items() if name.startswith("hidden/")]
    hidden = np.sum(of_norms, axis=0) if of_norms else nothing
    return Importance(ffn, heads, hidden, turns.numpy(), np.array([sequences]))
