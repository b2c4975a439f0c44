"""What we believe about a model, asked of the model itself on a few tokens.

Configurations are not to be trusted: a scale that is there but unused, a mask that is ignored, positions that are not
read. Each check runs the model in evaluation mode and leaves it as it was.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from potstill.errors import ModelError, NotFiniteError
from potstill.models.asking import device_of, evaluating
from potstill.models.forward import head_of, hidden_states
from potstill.models.tasks import task_of
from potstill.types import Batch

# Padding is often token 0 or 1, and some encoders take what is padding from the ids.
_LEAST_TOKEN = 4


def check_head(model: PreTrainedModel) -> None:
    """The model's logits are its hidden states through `head_of`, and no token of a causal model sees a later one.

    Raises ModelError otherwise, and NotFiniteError when the model's logits are NaN or infinite.
    """
    task = task_of(model)
    tokens = _random_tokens(model, 2, 8)
    tokens[1, :-1] = tokens[0, :-1]  # two rows that differ in their last token only
    tokens[1, -1] = (tokens[0, -1] + 1) % int(tokens.max() + 1)
    tokens = tokens.clamp_min(_LEAST_TOKEN)
    batch = _batch_of(tokens, torch.arange(8, device=tokens.device).expand(2, 8))
    if task == "classes":
        batch.weights[:, :-1] = 0.0  # one prediction a text
    with evaluating(model):
        states = hidden_states(model, batch)
        logits = states.head.logits(states.rows)
        settings = {"use_cache": False} if task == "causal" else {}
        own = model(input_ids=tokens, **settings).logits.flatten(0, -2)
    if not own.isfinite().all():
        raise NotFiniteError(
            f"{type(model).__name__} gives NaN or infinite logits on {tokens[0].tolist()}: its weights are damaged, or "
            f"{model.dtype} is too small for them; load it in float32 or bfloat16"
        )
    if (error := _relative_error(logits, own)) > _tolerance(model):
        raise ModelError(
            f"the logits of {type(model).__name__} are not its last hidden state through its head (they are "
            f"{error:.1%} off): it does something after the head that potstill doesn't know; choose another family"
        )
    if task != "causal":
        return
    first, second = states.rows.unflatten(0, (2, 8))[:, :-1]
    if _relative_error(first, second) > _tolerance(model):
        raise ModelError(
            f"{type(model).__name__} is not causal: changing the last token changed predictions made before it; "
            "use a causal language model"
        )


def is_causal(model: PreTrainedModel) -> bool:
    """Whether no token is told of those behind it: asked of the model."""
    tokens = few_tokens(model).inputs.repeat(2, 1)
    tokens[1, -1] -= 1
    with evaluating(model):
        first, second = model.base_model(input_ids=tokens).last_hidden_state[:, :-1]
    return _relative_error(first, second) <= _tolerance(model)


def few_tokens(model: PreTrainedModel) -> Batch:
    """One short text, the same for every model, for trying something."""
    places = torch.arange(8, device=device_of(model))[None]
    batch = _batch_of(places + _LEAST_TOKEN, places)
    if task_of(model) == "classes":
        batch.weights[:, :-1] = 0.0  # one prediction a text
    return batch


def check_packing(model: PreTrainedModel) -> None:
    """Two contexts in one row give the hidden states they give alone. Raises ModelError otherwise."""
    tokens = _random_tokens(model, 1, 12)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None].to(tokens.device)
    with evaluating(model):
        packed = hidden_states(model, _batch_of(tokens, positions)).rows
        first = hidden_states(model, _batch_of(tokens[:, :5], positions[:, :5])).rows
        second = hidden_states(model, _batch_of(tokens[:, 5:], positions[:, 5:])).rows
    if (error := _relative_error(packed, torch.cat([first, second]))) > _tolerance(model):
        raise ModelError(
            f"{type(model).__name__} can't keep texts in one row apart by their positions (its hidden states are "
            f"{error:.1%} off those of the texts alone): turn packing off (training.packing = false)"
        )


def check_same_states(divided: PreTrainedModel, whole: PreTrainedModel) -> None:
    """A model and the same one divided among processes give the same hidden states; all processes ask. Raises ModelError otherwise."""
    with evaluating(divided), evaluating(whole):
        found = hidden_states(divided, few_tokens(divided)).rows
        expected = hidden_states(whole, few_tokens(whole)).rows
    # Sums in another order, in a model of many layers: wider than where one matmul is compared.
    if (error := _relative_error(found, expected)) > 2 * _tolerance(whole):
        raise ModelError(
            f"the hidden states of {type(whole).__name__} are {error:.1%} off when its layers are divided by transformers' tensor-parallel "
            "plan: leave tensor_parallel out; under FSDP2 its layers are divided in another way (recipes/accelerate/fsdp2.yaml)"
        )


def _random_tokens(model: PreTrainedModel, rows: int, width: int) -> Int[Tensor, "rows width"]:
    generator = torch.Generator().manual_seed(0)
    size = model.config.vocab_size if task_of(model) == "classes" else head_of(model).num_tokens
    return torch.randint(size, (rows, width), generator=generator).to(device_of(model))


def _batch_of(tokens: Int[Tensor, "rows width"], positions: Int[Tensor, "rows width"]) -> Batch:
    everywhere = torch.ones_like(tokens, dtype=torch.float32)
    return Batch(tokens, tokens, everywhere, torch.zeros_like(tokens), positions, positions)


def _relative_error(found: Float[Tensor, "*shape"], expected: Float[Tensor, "*shape"]) -> float:
    """The difference's norm as a share of what is expected; infinite when it is not a number."""
    found, expected = found.cpu().double(), expected.cpu().double()  # Apple's devices have no doubles
    error = (found - expected).norm() / expected.norm()
    return float(error.nan_to_num(nan=torch.inf))


def _tolerance(model: PreTrainedModel) -> float:
    # Rounding of one matmul order against another; a real leak or a missed factor is off by tenths.
    return max(1e-4, 4 * torch.finfo(model.dtype).eps)
