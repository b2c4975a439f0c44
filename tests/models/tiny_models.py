"""A tiny random model of each family, with everything on that makes it different from Llama; and a byte tokenizer."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from potstill.types import Batch

VOCABULARY = 61
LAYERS = 4
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}

FAMILIES: dict[str, dict] = {
    "llama": GROUPED | {"tie_word_embeddings": False},
    "qwen2": GROUPED | SLIDING | {"use_sliding_window": True, "sliding_window": 3, "tie_word_embeddings": True},
    "qwen3": GROUPED | {"head_dim": 8},
    "gemma2": GROUPED
    | {"head_dim": 8, "sliding_window": 3, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    "gemma3_text": GROUPED | SLIDING | {"head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 8},
    "cohere": GROUPED | {"logit_scale": 0.0625},
    "granite": GROUPED | {"logits_scaling": 8.0, "embedding_multiplier": 12.0},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 16} | {"do_layer_norm_before": True},
    "gpt_neox": SHAPE,
    "phi": SHAPE | {"partial_rotary_factor": 0.5},
    "olmo2": GROUPED,
    "smollm3": GROUPED | {"no_rope_layers": [1, 0, 1, 0]},
}


def tiny_model(family: str, *, seed: int = 0, spread: float = 5.0, settings: dict | None = None) -> PreTrainedModel:
    """A random model of a family in fp32, its matrices enlarged so that its attention and its logits are not flat."""
    config = AutoConfig.for_model(family, **(FAMILIES[family] if settings is None else settings), **TOKEN_IDS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(spread)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


CHAT_TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"


def byte_tokenizer(*, extra: tuple[str, ...] = (), chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes, then <|end|>, then whatever is asked for. It has no padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", model_max_length=16)
    made.add_tokens(list(extra))
    made.chat_template = chat_template
    return made


def batch_of(rows: list[list[int]], weights: list[list[float]] | None = None) -> Batch:
    """A batch of whole rows, one document a row."""
    tokens = torch.tensor(rows)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    counted = torch.ones(tokens.shape) if weights is None else torch.tensor(weights)
    return Batch(tokens, tokens, counted, torch.arange(len(rows))[:, None].expand_as(tokens), positions, positions)
