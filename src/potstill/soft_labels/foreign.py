"""Likeliest tokens as other tools write them, a row of a table at a time: which predictions, which tokens, which log-probabilities.

    columns     top_ids, top_logprobs: a list each, one entry a token of input_ids; what is said after token t stands at t
                (also what `potstill export` writes)
    distillkit  compressed_logprobs and bytepacked_indices, or token_ids and top_values: entry t is said after token t. Arcee's
                DistillKit, config of its compressor beside it
    axolotl     logprobs ({"token": "token_id:7", "logprob": -0.1}), or target_logprobs and target_token_ids: entry t is *of* token t,
                and where there are fewer entries than tokens, the last ones have them
    openai      a request's prompt or messages with its response: choices[0].logprobs.content[i].top_logprobs of the i-th token that
                was written (vLLM, llama.cpp, OpenAI)

Conventions were read from those tools' sources, and are checked here: see `shift_of` in importing.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from potstill.data import spelled_tokens
from potstill.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What is read in place of bytes that are no whole character.
_UNREADABLE = "\ufffd"
Layout = Literal["columns", "distillkit", "axolotl", "openai"]
Record = Mapping[str, object]


@dataclass(frozen=True)
class Listed:
    """What was said of a document's predictions, one entry each; an entry may be empty.

    first     the token after which the first entry was said; the others follow without gaps
    ids       of the listed tokens
    logprobs  of them, in nats
    """

    first: int
    ids: list[NDArray[np.int64]]
    logprobs: list[NDArray[np.float64]]


@dataclass(frozen=True)
class Polynomial:
    """DistillKit's compressor: `exact` values as they are, then a polynomial in the rank, all by descending probability.

    d           tokens in the vocabulary
    k, exact_k  how many are listed, and how many of them have a value of their own
    terms       of the polynomial: powers of the rank (from 0 on), "sqrt" or "exp"
    normalize_t the ranks of the polynomial run from 0 to 1
    bins        of what the polynomial leaves, quantised: (dtype of the scale, bits an element, elements)
    """

    d: int
    k: int
    exact_k: int
    exact_dtype: str = "float32"
    polynomial_terms: tuple[int | str, ...] = ()
    term_dtype: str = "float32"
    residual_bins: tuple[tuple[str, int, int], ...] = field(default=())
    delta_encoding: bool = True
    normalize_t: bool = False

    @classmethod
    def of(cls, settings: Mapping) -> Polynomial:
        """From its YAML or JSON. DataError for what can't be read."""
        try:
            bins = [
                (one.get("scale_dtype"), one["element_bits"], one["num_elements"])
                for one in settings.get("residual_bins") or []
            ]
            names = ("d", "k", "exact_k", "exact_dtype", "term_dtype", "delta_encoding", "normalize_t")
            found = {name: settings[name] for name in names if name in settings}
            return cls(
                **found, polynomial_terms=tuple(settings.get("polynomial_terms") or ()), residual_bins=tuple(bins)
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the compressor's settings lack {error}: give DistillKit's compression_config") from error

    def logprobs(self, blob: NDArray[np.uint8]) -> NDArray[np.float64]:
        """blob [predictions, bytes] -> [predictions, k]."""
        at = 0

        def take(dtype: str, count: int) -> NDArray[np.float64]:
            nonlocal at
            size = {"bfloat16": 2}.get(dtype) or np.dtype(dtype).itemsize
            piece = np.ascontiguousarray(blob[:, at : at + size * count])
            at += size * count
            if dtype == "bfloat16":
                return (piece.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            return piece.view(f"<{np.dtype(dtype).str[1:]}").astype(np.float64)

        exact = take(self.exact_dtype, self.exact_k)
        count = self.k - self.exact_k
        rest = np.zeros((len(blob), count))
        if self.polynomial_terms:
            rank = np.linspace(0, 1, count) if self.normalize_t else np.arange(count, dtype=np.float64)
            functions = {"sqrt": np.sqrt, "exp": np.exp}
            basis = [rank**term if isinstance(term, int) else functions[term](rank) for term in self.polynomial_terms]
            rest += take(self.term_dtype, len(basis)) @ np.stack(basis)
        start = 0
        for dtype, bits, size in self.residual_bins:
            scale, width = take(dtype, 1), (bits * size + 7) // 8
            levels = unpacked(blob[:, at : at + width], bits, size)
            at += width
            values = levels * 2.0 - 1.0 if bits == 1 else levels - 2.0 ** (bits - 1)
            rest[:, start : start + size] += values * scale
            start += size
        values = np.concatenate([exact, rest], axis=1)
        return values.cumsum(1) if self.delta_encoding else values

    @property
    def index_bits(self) -> int:
        """Of a token id."""
        return math.ceil(math.log2(self.d))


def unpacked(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """Whole numbers of `bits` bits, the highest first, end to end. packed [rows, bytes] -> [rows, count]."""
    every = np.unpackbits(packed, axis=1)[:, : bits * count].reshape(len(packed), count, bits).astype(np.int64)
    return every @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def layout_of(record: Record) -> Layout | None:
    """Which tool wrote a row, by its columns."""
    for layout, names in _COLUMNS.items():
        if any(all(name in record for name in some) for some in names):
            return layout
    return None


_COLUMNS: dict[Layout, tuple[tuple[str, ...], ...]] = {
    "columns": (("top_ids", "top_logprobs"),),
    "distillkit": (("compressed_logprobs", "bytepacked_indices"), ("token_ids", "top_values")),
    "axolotl": (("target_logprobs", "target_token_ids"),),
    "openai": (("choices",), ("response",)),
}


def listed(
    record: Record, layout: Layout, num_tokens: int, where: str, *, compressor: Polynomial | None, logprobs: str
) -> Listed:
    """What a row says of a document of `num_tokens` tokens; `logprobs` is the column of axolotl's raw rows. DataError where it can't be."""
    try:
        match layout:
            case "columns":
                return _pairs(0, _lists(record["top_ids"]), _lists(record["top_logprobs"]))
            case "distillkit" if "token_ids" in record:
                return _pairs(0, _lists(record["token_ids"]), _lists(record["top_values"]))
            case "distillkit":
                return _decompressed(record, compressor)
            case "axolotl" if "target_logprobs" in record:
                found = _pairs(0, _lists(record["target_token_ids"]), _lists(record["target_logprobs"]))
                return _of_last(found, num_tokens)
            case "axolotl":
                entries = [entry or [] for entry in _lists(record[logprobs])]
                ids = [[int(str(one["token"]).split(":")[1]) for one in entry] for entry in entries]
                return _of_last(_pairs(0, ids, [[one["logprob"] for one in entry] for entry in entries]), num_tokens)
            case "openai":
                raise AssertionError("answers are read by `answer_of`")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{where} is not as {layout} writes it ({type(error).__name__}: {error})") from error


def answer_of(record: Record, tokenizer: PreTrainedTokenizerBase, where: str) -> tuple[list[int], list[int], Listed]:
    """(tokens of the prompt, tokens of the answer, what was said of the answer's) of a request with its response."""
    try:
        response = record.get("response", record)
        body = response.get("body", response)  # type: ignore[union-attr]
        content = body["choices"][0]["logprobs"]["content"]
        messages = record.get("messages") or record.get("body", {}).get("messages")  # type: ignore[union-attr]
        prompt = record.get("prompt")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{where} holds no choices[0].logprobs.content: ask for logprobs and top_logprobs") from error
    if messages is not None:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)  # type: ignore[arg-type]
        before = tokenizer(str(text), add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, str):
        before = tokenizer(prompt)["input_ids"]
    else:
        raise DataError(
            f"{where} has neither the messages nor the prompt that was answered: put them beside the response"
        )
    known = tokens_by_text(tokenizer)
    written, ids, logprobs = [], [], []
    for entry in content or []:
        if (token := _token_of(entry, known)) is None:
            raise DataError(
                f"{where}: the token {entry['token']!r} is none of this tokenizer's. Ask the server for token ids (vLLM: "
                "return_tokens_as_token_ids), or name the tokenizer of the model that answered"
            )
        written.append(token)
        alternatives = [(_token_of(one, known), one["logprob"]) for one in entry.get("top_logprobs") or [entry]]
        kept = {one: value for one, value in alternatives if one is not None}
        ids.append(list(kept))
        logprobs.append(list(kept.values()))
    return list(before), written, _pairs(len(before) - 1, ids, logprobs)


def tokens_by_text(tokenizer: PreTrainedTokenizerBase) -> dict[bytes, int]:
    """The token of each string of bytes, as servers write it; of several the first. Of a part of a character there is its bytes alone."""
    found = getattr(tokenizer, "_potstill_tokens_by_text", None)
    if found is None:
        found = {}
        for token_id, spelling in enumerate(spelled_tokens(tokenizer)):
            if spelling:
                found.setdefault(spelling, token_id)
        for token_id in range(len(tokenizer)):
            if _UNREADABLE not in (text := str(tokenizer.decode([token_id]))):
                found.setdefault(text.encode(), token_id)
        tokenizer._potstill_tokens_by_text = found  # type: ignore[attr-defined]
    return found


def _token_of(entry: Mapping, known: Mapping[bytes, int]) -> int | None:
    """None for a token that the tokenizer hasn't got, and for a part of a character whose bytes are not said."""
    token = entry["token"]
    if token.startswith("token_id:"):
        return int(token.removeprefix("token_id:"))
    found = known.get(bytes(entry["bytes"])) if entry.get("bytes") is not None else None
    return known.get(token.encode()) if found is None and _UNREADABLE not in token else found


def _lists(value: object) -> Sequence:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a list of lists")
    return value


def _pairs(first: int, ids: Sequence, logprobs: Sequence) -> Listed:
    if len(ids) != len(logprobs) or any(len(a or ()) != len(b or ()) for a, b in zip(ids, logprobs, strict=False)):
        raise ValueError("there are not as many log-probabilities as token ids")
    return Listed(
        first,
        [np.array(some or (), dtype=np.int64) for some in ids],
        [np.array([-math.inf if v is None else v for v in some or ()], dtype=np.float64) for some in logprobs],
    )


def _of_last(found: Listed, num_tokens: int) -> Listed:
    """Entries that are *of* the last tokens: each is said after the token before."""
    surplus = max(0, len(found.ids) - num_tokens)
    first = num_tokens - len(found.ids) + surplus - 1
    ids, logprobs = found.ids[surplus:], found.logprobs[surplus:]
    return Listed(0, ids[1:], logprobs[1:]) if first < 0 else Listed(first, ids, logprobs)


def _decompressed(record: Record, compressor: Polynomial | None) -> Listed:
    if compressor is None:
        raise DataError("compressed labels need the settings of their compressor: --compressor compression_config.yaml")
    blob = np.array(record["compressed_logprobs"], dtype=np.uint8)
    packed = np.array(record["bytepacked_indices"], dtype=np.uint8)
    values, ids = compressor.logprobs(blob), unpacked(packed, compressor.index_bits, compressor.k)
    return Listed(0, list(ids), list(values))
