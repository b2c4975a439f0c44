"""How a model of a family is said in GGUF: its settings, and its tensors by llama.cpp's names and in llama.cpp's order of rows."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_LAYER = re.compile(r"\.(\d+)\.")
_ROTATED = re.compile(r"\.(q|k)_proj\.")


@dataclass(frozen=True)
class Family:
    """What llama.cpp calls it, and what is special about it.

    architecture   llama.cpp's name
    windows        whether llama.cpp lets layers see a window of tokens only; where not, the context is cut to the window
    rearranged     a tensor by its name, in llama.cpp's order
    """

    architecture: str
    windows: bool
    rearranged: Callable[[str, Tensor, PreTrainedConfig], Tensor]


@dataclass(frozen=True)
class Widths:
    """How wide the residual stream and the feed-forward layers are."""

    channels: int
    neurons: int


def widths_of(config: PreTrainedConfig) -> Widths:
    """Of any of the families."""
    if config.model_type == "gpt2":
        return Widths(config.n_embd, config.n_inner or 4 * config.n_embd)
    return Widths(config.hidden_size, config.intermediate_size)


def family_of(model: PreTrainedModel) -> Family:
    """ModelError for a model that can't be said in GGUF here, and why."""
    check_gguf()
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"{type(model).__name__} can't be written as GGUF: potstill knows how for {', '.join(FAMILIES)}. Export it as huggingface, "
            "int4 or int8, or convert that folder with llama.cpp's own script"
        )
    _check_layers_are_alike(model)
    return FAMILIES[kind]


def check_gguf() -> None:
    """MissingExtraError where the package `gguf` isn't there."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", extra="llama", purpose="Writing GGUF")


def tensors_of(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """(llama.cpp's name, tensor in llama.cpp's order), each once. ModelError for one that llama.cpp has no place for."""
    import gguf

    family, config = family_of(model), model.config
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[family.architecture], config.num_hidden_layers)
    weights = model.state_dict()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    is_tied = head is not None and head.weight is embedding
    for name, tensor in weights.items():
        if is_tied and name == "lm_head.weight":
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(
                f"llama.cpp's {family.architecture} has no place for the tensor {name} of {type(model).__name__}, so it can't be written "
                "as GGUF: export it as huggingface, int4 or int8"
            )
        yield theirs, family.rearranged(name, tensor.detach(), config)
    if (factors := _frequency_factors(config)) is not None:
        yield "rope_freqs.weight", factors


def add_settings(writer: GGUFWriter, model: PreTrainedModel, widths: Widths) -> None:
    """The configuration in GGUF's words, with the widths that the file has. ModelError for what llama.cpp computes otherwise."""
    config, family = model.config, family_of(model)
    if family.architecture == "gpt2":
        writer.add_context_length(config.n_positions)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        _check(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh", "gelu"))
        _check(config, "scale_attn_weights", (True,))
        _check(config, "scale_attn_by_inverse_layer_idx", (False,))
    else:
        activations = ("silu",) if family.architecture != "gemma3" else ("gelu_pytorch_tanh",)
        _check(config, "hidden_activation" if family.architecture == "gemma3" else "hidden_act", activations)
        if family.architecture in ("qwen3", "gemma3"):
            _check(config, "attention_bias", (False,))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps * config.hidden_size / widths.channels)
        writer.add_head_count_kv(config.num_key_value_heads)
        head_size = config.head_dim if getattr(config, "head_dim", None) else _head_size(config)
        for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
            add(head_size)
        _add_context(writer, config, family)
        _add_rope(writer, config, family)
    writer.add_embedding_length(widths.channels)
    writer.add_feed_forward_length(widths.neurons)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(rows_of_embedding(model))


def rows_of_embedding(model: PreTrainedModel) -> int:
    """How many tokens it has a row for; some may be padding of the vocabulary."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def _head_size(config: PreTrainedConfig) -> int:
    return config.hidden_size // config.num_attention_heads


def _add_context(writer: GGUFWriter, config: PreTrainedConfig, family: Family) -> None:
    if getattr(config, "query_pre_attn_scalar", None) not in (None, getattr(config, "head_dim", None)):
        raise ModelError(
            f"llama.cpp divides attention by the root of the head's size ({config.head_dim}), this model by that of "
            f"{config.query_pre_attn_scalar} (query_pre_attn_scalar): it can't be written as GGUF"
        )
    context, window = config.max_position_embeddings, _window(config)
    if family.windows and window is not None:
        writer.add_sliding_window(window)
        kinds = [kind == "sliding_attention" for kind in config.layer_types]
        writer.add_sliding_window_pattern(kinds)
    elif window is not None:
        # Up to the window's length every token sees all others, with a window or without.
        context = min(context, window)
    writer.add_context_length(context)


def _window(config: PreTrainedConfig) -> int | None:
    """How far back the layers that don't see everything see; None where all see everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)


def _add_rope(writer: GGUFWriter, config: PreTrainedConfig, family: Family) -> None:
    import gguf

    rope: Mapping = config.rope_parameters
    if "full_attention" in rope:
        if family.windows:
            near = rope["sliding_attention"]
            _check_rope(near, ("default",))
            writer.add_rope_freq_base_swa(float(near["rope_theta"]))
        rope = rope["full_attention"]
    # Only its llama reads the factors of Llama 3.1.
    _check_rope(rope, ("default", "linear", "llama3") if family.architecture == "llama" else ("default", "linear"))
    if float(rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError("this model rotates a part of each head only, which its family in llama.cpp doesn't")
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _check_rope(rope: Mapping, known: tuple[str, ...]) -> None:
    kind = rope.get("rope_type", "default")
    if kind not in known:
        raise ModelError(
            f"rotary embeddings of type {kind!r} can't be written as GGUF: those of {', '.join(known)} can"
        )


def _check(config: PreTrainedConfig, name: str, known: tuple[object, ...]) -> None:
    if (found := getattr(config, name)) not in known:
        raise ModelError(f"{name} is {found!r}, and llama.cpp computes {known[0]} in a {config.model_type}")


def _frequency_factors(config: PreTrainedConfig) -> Tensor | None:
    """[head / 2]: by what Llama 3.1 divides the frequency of each pair of channels; None elsewhere."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    size = getattr(config, "head_dim", None) or _head_size(config)
    turns = 1 / float(rope["rope_theta"]) ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    wavelengths = 2 * math.pi / turns
    known, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((known / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()


def _check_layers_are_alike(model: PreTrainedModel) -> None:
    """A GGUF file has one size for all layers."""
    shapes: dict[str, tuple[str, torch.Size]] = {}
    for name, tensor in model.state_dict().items():
        first, shape = shapes.setdefault(_LAYER.sub(".N.", name, count=1), (name, tensor.shape))
        if tensor.shape != shape:
            raise ModelError(
                f"layers of different sizes can't be written as GGUF: {first} is {list(shape)} and {name} {list(tensor.shape)}. Export "
                "the student as huggingface, int4 or int8"
            )


def _as_they_are(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    return tensor


def _pairs_side_by_side(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    """Rotary embeddings turn pairs of channels: i and i + half here, 2i and 2i + 1 in llama.cpp's llama."""
    found = _ROTATED.search(name)
    if found is None:
        return tensor
    heads = config.num_attention_heads if found[1] == "q" else config.num_key_value_heads
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _norms_from_one(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    """Gemma's norms multiply by 1 + weight."""
    return tensor + 1 if name.endswith("norm.weight") else tensor


def _outputs_first(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    """GPT-2 keeps the matrices of its layers as inputs by outputs."""
    is_matrix = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    return tensor.T.contiguous() if is_matrix else tensor


# By transformers' model_type.
FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", False, _pairs_side_by_side),
    "mistral": Family("llama", False, _pairs_side_by_side),
    "qwen2": Family("qwen2", False, _as_they_are),
    "qwen3": Family("qwen3", False, _as_they_are),
    "gemma3_text": Family("gemma3", True, _norms_from_one),
    "gpt2": Family("gpt2", False, _outputs_first),
}
