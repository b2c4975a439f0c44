"""A tokenizer as GGUF says it: tokens, kinds, merges, and the rule by which text is cut before merging."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedTokenizerBase

from potstill.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

# GGUF's kinds of tokens.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's name for a rule, by the regular expression that cuts (`tokenizer.ggml.pre`).
_RULES: Mapping[str, str] = {
    _WORD + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORD + r"\p{N}" + _REST: "qwen2",
    _GPT4: "gpt-4o",
}


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Everything llama.cpp needs to make the same tokens of text; `size` rows has the embedding. ModelError for what it can't say."""
    said = _said(tokenizer)
    if len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model {size:,}: they don't belong together"
        )
    tokens, kinds = _tokens(tokenizer, said, size)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if said["model"]["byte_fallback"]:
        _add_pieces(writer, said, tokens)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_rule(said))
        if not said["model"]["merges"]:
            raise ModelError(
                "a vocabulary without merges can't be written as GGUF: train the tokenizer with a few at least"
            )
        writer.add_token_merges([_merge(one) for one in said["model"]["merges"]])
    _add_special(writer, tokenizer)


def chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template, or the one called default of several."""
    found = tokenizer.chat_template
    return found.get("default") if isinstance(found, dict) else found


def _said(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the tokenizers library says of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{type(tokenizer).__name__} is no tokenizer of the tokenizers library: it can't be written as GGUF"
        )
    said = json.loads(backend.to_str())
    if (kind := said["model"]["type"]) != "BPE":
        raise ModelError(
            f"a tokenizer of type {kind} can't be written as GGUF: BPE can, of bytes or of pieces with byte_fallback"
        )
    return said


def _tokens(tokenizer: PreTrainedTokenizerBase, said: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    found: dict[int, tuple[str, int]] = {}
    has_pieces = said["model"]["byte_fallback"]
    for token, number in said["model"]["vocab"].items():
        is_byte = has_pieces and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        found[number] = (token, _BYTE if is_byte else _NORMAL)
    for one in said["added_tokens"]:
        found[one["id"]] = (one["content"], _CONTROL if one["special"] else _USER_DEFINED)
    if has_pieces and (unknown := said["model"]["unk_token"]) is not None:
        found[said["model"]["vocab"][unknown]] = (unknown, _UNKNOWN)
    rows = [found.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(size)]
    return [token for token, _ in rows], [kind for _, kind in rows]


def _merge(one: str | Sequence[str]) -> str:
    return one if isinstance(one, str) else " ".join(one)


def _rule(said: Mapping[str, Any]) -> str:
    """llama.cpp's name for how text is cut before merging."""
    steps = _steps(said["pre_tokenizer"])
    if said["normalizer"] is not None and said["normalizer"]["type"] not in ("NFC",):
        raise ModelError(
            f"this tokenizer changes text before it cuts it ({said['normalizer']['type']}), which llama.cpp doesn't for byte-level BPE: it "
            "can't be written as GGUF"
        )
    kinds = [step["type"] for step in steps]
    last = steps[-1] if steps else {}
    if kinds and kinds[-1] == "ByteLevel" and not last["add_prefix_space"]:
        cuts = last.get("use_regex", True)
        if kinds == ["ByteLevel"] and cuts:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and cuts and steps[0]["individual_digits"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not cuts:
            rule = _RULES.get(steps[0]["pattern"].get("Regex", ""))
            if rule is not None and steps[0]["behavior"] == "Isolated" and not steps[0]["invert"]:
                return rule
    raise ModelError(
        f"llama.cpp has no rule here for how this tokenizer cuts text ({', '.join(kinds) or 'no pre-tokenizer'}): rules are "
        "known for GPT-2, SmolLM, Llama 3, Qwen 2 and GPT-4o. Export as huggingface, int4 or int8"
    )


def _steps(said: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if said is None:
        return []
    return [step for one in said["pretokenizers"] for step in _steps(one)] if said["type"] == "Sequence" else [said]


def _add_pieces(writer: GGUFWriter, said: Mapping[str, Any], tokens: Sequence[str]) -> None:
    """SentencePiece's BPE: whichever neighbours make the piece of the highest score are joined first, so a merge's rank is its score."""
    ranks: dict[str, int] = {}
    for rank, one in enumerate(said["model"]["merges"]):
        ranks.setdefault(_merge(one).replace(" ", "", 1), rank)
    last = float(-len(ranks) - 1)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([float(-ranks[token]) if token in ranks else last for token in tokens])
    writer.add_add_space_prefix(_puts_a_space_before(said))


def _puts_a_space_before(said: Mapping[str, Any]) -> bool:
    steps = said["normalizer"]
    steps = [] if steps is None else steps.get("normalizers", [steps])
    cuts = _steps(said["pre_tokenizer"])
    known = {"Prepend", "Replace"}
    other = [step["type"] for step in steps if step["type"] not in known]
    other += [step["type"] for step in cuts if step["type"] not in ("Metaspace", "Split")]
    if other:
        raise ModelError(f"llama.cpp has no {', '.join(other)} for pieces: this tokenizer can't be written as GGUF")
    prefixes = [step["prepend_scheme"] for step in cuts if step["type"] == "Metaspace"]
    return any(step["type"] == "Prepend" for step in steps) or any(scheme != "never" for scheme in prefixes)


def add_ends(writer: GGUFWriter, ends: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokens that end a text beside EOS, as the model says: llama.cpp has two more places. ModelError for further ones."""
    others = [token for token in ends if token != tokenizer.eos_token_id]
    if len(others) > 2:
        raise ModelError(
            f"this model ends a text with any of {len(others) + 1} tokens, and GGUF has places for 3: take some out of eos_token_id in its "
            "generation_config.json"
        )
    for token, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(token)


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "this tokenizer has no token that ends a text, and llama.cpp would take another for it: give the tokenizer an eos_token"
        )
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if isinstance(number, int):
            add(number)
    ids = cast(list[int], tokenizer("a").input_ids)
    plain = cast(list[int], tokenizer("a", add_special_tokens=False).input_ids)
    begin = next((start for start in range(len(ids)) if ids[start : start + len(plain)] == plain), None)
    if begin is None or not plain:
        raise ModelError(
            f"this tokenizer cuts 'a' into {tokenizer.convert_ids_to_tokens(plain)}, and with its special tokens into "
            f"{tokenizer.convert_ids_to_tokens(ids)}, which llama.cpp can't: it can't be written as GGUF"
        )
    before, after = ids[:begin], ids[begin + len(plain) :]
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise ModelError(
            f"this tokenizer puts {tokenizer.convert_ids_to_tokens(before)} before a text and {tokenizer.convert_ids_to_tokens(after)} "
            "behind it, and llama.cpp only its BOS and EOS: it can't be written as GGUF"
        )
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(bool(after))
    if (template := chat_template_of(tokenizer)) is not None:
        writer.add_chat_template(template)
