"""For the tests here, in one of two processes: labels of a teacher that both run together, beside those of a whole one.

Prints the largest relative difference for each family, or what it is refused for.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy

import torch
from accelerate import Accelerator
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from potstill.errors import PotstillError
from potstill.teachers import LiveTeacher, TensorParallelTeacher
from potstill.types import Batch

TOKENS = 61
_SHAPE = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}


def families() -> dict[str, PreTrainedModel]:
    """Of each what its plan has that the others' have not."""
    torch.manual_seed(2)
    return {
        "Llama": LlamaForCausalLM(LlamaConfig(**_SHAPE)),
        "classes": LlamaForSequenceClassification(LlamaConfig(**_SHAPE, num_labels=5)),
        "Gemma 2, tied": Gemma2ForCausalLM(Gemma2Config(**_SHAPE, sliding_window=4)),
        "Qwen3, norms of heads": Qwen3ForCausalLM(Qwen3Config(**_SHAPE)),
        "Qwen3, experts": Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SHAPE, **_EXPERTS)),
    }


def batch_of(rank: int, *, is_classes: bool) -> Batch:
    """Three rows of 9 tokens for one process, of which some are padding or a second context; one row of 5 for the other."""
    rows, width = ((3, 9), (1, 5))[rank]
    random = torch.Generator().manual_seed(rank)
    inputs = torch.randint(1, TOKENS, (rows, width), generator=random)
    positions = torch.arange(width).repeat(rows, 1)
    weights = torch.rand(rows, width, generator=random).round()
    documents = torch.full((rows, width), rank)
    if rank == 0:
        documents[2, 6:], weights[2, 6:], inputs[2, 6:] = -1, 0.0, 0
        positions[0, 4:] -= 4
    if is_classes:  # one prediction a text, after its last token
        positions = torch.arange(width).repeat(rows, 1)
        weights[:] = 0.0
        weights[torch.arange(rows), (documents >= 0).sum(1) - 1] = 1.0
    return Batch(inputs, inputs, weights, documents, positions, positions)


def difference(model: PreTrainedModel, processes: Accelerator) -> float | str:
    """The largest, of rows, logits and layers, as a share of the largest number expected."""
    is_classes = isinstance(model, LlamaForSequenceClassification)
    batch, size = batch_of(processes.process_index, is_classes=is_classes), 5 if is_classes else TOKENS
    whole = LiveTeacher(deepcopy(model), size=size, layers=(-1, 0, 1)).label(batch)
    try:
        divided = TensorParallelTeacher(LiveTeacher(model, size=size, layers=(-1, 0, 1)), processes, size=2).label(
            batch
        )
    except PotstillError as error:
        return str(error)
    assert divided.layers.keys() == whole.layers.keys() == {-1, 0, 1}
    pairs = [(divided.rows, whole.rows), (divided.head.logits(divided.rows), whole.head.logits(whole.rows))]
    pairs += [(divided.layers[number], whole.layers[number]) for number in (-1, 0, 1)]
    assert all(found.shape == expected.shape for found, expected in pairs)
    return max(float((found - expected).abs().max() / expected.abs().max()) for found, expected in pairs)


def damaged(processes: Accelerator) -> str:
    """What this process is told where a weight of the second one's part is infinite."""
    teacher = TensorParallelTeacher(LiveTeacher(families()["Llama"], size=TOKENS), processes, size=2)
    if processes.process_index == 1:
        teacher.live.model.model.layers[0].mlp.down_proj.weight.to_local()[0, 0] = torch.inf
    try:
        teacher.label(batch_of(processes.process_index, is_classes=False))
    except PotstillError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """Every family in turn."""
    processes = Accelerator(cpu=True)
    wanted = sys.argv[1:]
    models = {name: model for name, model in families().items() if not wanted or name in wanted}
    found: dict[str, float | str] = {name: difference(model, processes) for name, model in models.items()}
    if "damaged" in wanted:
        found["damaged"] = damaged(processes)
    print(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
