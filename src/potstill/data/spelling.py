"""Which bytes of text a token stands for."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_LONE_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def spelled_tokens(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """The bytes of text that each token id stands for; none for special tokens, and for ids without a token.

    Byte-level vocabularies (GPT-2's and its heirs) write one character a byte, so this is exact. SentencePiece ones write a
    space as ▁ and a lone byte as <0x0A>; a space they invent at the beginning of a text is there. WordPiece's forget spaces.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    # transformers declares this attribute only where it is missing; a fast tokenizer has it.
    backend: Tokenizer = tokenizer.backend_tokenizer  # type: ignore[assignment]
    is_byte_level = "ByteLevel" in str(backend.decoder)
    spelled = [b""] * (max(vocabulary.values(), default=-1) + 1)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token, token_id in vocabulary.items():
        if token_id in special:
            continue
        if token in added:
            spelled[token_id] = token.encode()
        elif is_byte_level:
            spelled[token_id] = _bytes_of_characters(token)
        elif _LONE_BYTE.fullmatch(token):
            spelled[token_id] = bytes.fromhex(token[3:5])
        else:
            spelled[token_id] = token.replace("▁", " ").removeprefix("##").encode()
    return spelled


def _bytes_of_characters(token: str) -> bytes:
    alphabet = _byte_level_alphabet()
    # A character outside the alphabet stands in a vocabulary that no text reaches: one byte, whichever.
    return bytes(alphabet.get(character, ord("?")) for character in token)


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes are their own character, the others follow from U+0100 on (Radford et al. 2019, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
