"""Random encoders of a few thousand parameters, and a tokenizer with the special tokens they expect."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*(f"w{i}" for i in range(50)), "good", "bad", "fine", "the", "it")
SIZE = len(SPECIAL) + len(WORDS)
_SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
_COMMON = {"vocab_size": SIZE, "max_position_embeddings": 64, "pad_token_id": 0}
ENCODERS: dict[str, dict] = {
    "bert": _SHAPE,
    "roberta": _SHAPE,
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 4, "n_heads": 4},
    "modernbert": _SHAPE | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "electra": _SHAPE,
}
CLASSES = ("negative", "neutral", "positive")


def tiny_encoder(family: str, *, task: str = "masked", seed: int = 0) -> PreTrainedModel:
    """In evaluation mode, without dropout, its matrices enlarged so that what it says is not flat."""
    kinds = {"masked": AutoModelForMaskedLM, "classes": AutoModelForSequenceClassification}
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    dropout = dict.fromkeys(
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0
    )
    if family == "modernbert":
        dropout = {}
    config = AutoConfig.for_model(
        family, **_COMMON, **ENCODERS[family], **(labels if task == "classes" else {}), **dropout
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kinds[task].from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(5.0)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def word_tokenizer() -> PreTrainedTokenizerFast:
    """[CLS] words [SEP]."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
