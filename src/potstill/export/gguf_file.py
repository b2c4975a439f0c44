"""A student as a GGUF file, which llama.cpp, Ollama and LM Studio run; and what such a file holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import ModelError, RunDirectoryError
from potstill.export.blocks import BLOCK, IN_FULL, GgufKind, Stored, stored, values_of
from potstill.export.families import add_settings, check_gguf, family_of, rows_of_embedding, tensors_of
from potstill.export.k_quants import K_BLOCK
from potstill.export.padding import padding_of
from potstill.export.vocabulary import add_ends, add_tokenizer
from potstill.models import ends_of, head_of, task_of
from potstill.types import Head

if TYPE_CHECKING:
    from gguf import GGUFReader


def save_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, kind: GgufKind, *, name: str = "student"
) -> None:
    """Write the model with its tokenizer and chat template, whole or not at all.

    Vectors stay in float32, and in four-bit files embedding and head are of eight bits (of K-types: six); rows that blocks of 256 don't
    divide are of blocks of 32. Channels and neurons that these don't divide get zeros beside them (`padding_of`), and where
    channels can't, they stay f16.
    Raises ModelError for what GGUF or llama.cpp can't express, MissingExtraError without `gguf`, RunDirectoryError where the file
    can't be written.
    """
    check_gguf()
    import gguf

    if task_of(model) != "causal":
        raise ModelError(f"{type(model).__name__} doesn't write text, so it can't be exported as GGUF: use huggingface")
    part = path.with_name(f".part-{path.name}")
    writer = gguf.GGUFWriter(part, family_of(model).architecture)
    try:
        writer.add_name(name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
        padding = padding_of(model, kind)
        add_settings(writer, model, padding.file)
        add_tokenizer(writer, tokenizer, rows_of_embedding(model))
        add_ends(writer, ends_of(model, tokenizer), tokenizer)
        for theirs, tensor in tensors_of(model):
            one = stored(theirs, padding.of(theirs, tensor), kind, num_layers=model.config.num_hidden_layers)
            writer.add_tensor(theirs, one.data, raw_dtype=one.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, path)
    except OSError as error:
        raise RunDirectoryError(
            f"can't write {path}: {error.strerror or error}. Free some space or choose another folder (--out)"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def head_in(path: Path, model: PreTrainedModel, size: int) -> Head:
    """The head as the file has it, in float32, over the first `size` tokens; scale and soft-capping are those of the model."""
    found = {one.name: one for one in _read(path).tensors if one.name in ("output.weight", "token_embd.weight")}
    one = found.get("output.weight", found["token_embd.weight"])
    like = head_of(model)
    weight = values_of(Stored(one.data, one.tensor_type))
    return Head(weight, None if like.bias is None else like.bias.float(), like.scale, like.softcap, size)


def bytes_in(path: Path) -> dict[str, int]:
    """Bytes of the weights by part: blocks, embedding, head, rest."""
    found: Counter[str] = Counter()
    for one in _read(path).tensors:
        found[part_of(one.name)] += int(one.n_bytes)
    return dict(found)


def context_in(path: Path) -> int:
    """Tokens that one request may read and write together."""
    fields = _read(path).fields
    return int(fields[f"{fields['general.architecture'].contents()}.context_length"].contents())


def types_in(path: Path) -> dict[str, int]:
    """How many tensors there are of each type."""
    return dict(Counter(one.tensor_type.name for one in _read(path).tensors))


def block_of(kind: GgufKind) -> int:
    """How many weights of a row share a scale, in a type of blocks."""
    return K_BLOCK if "_k" in kind else BLOCK


def smaller_blocks_in(path: Path, kind: GgufKind) -> dict[str, str]:
    """By matrix and length of its rows, the types that hold it where the kind's blocks (256 of a K-type, else 32) can't."""
    found: dict[str, set[str]] = {}
    for one in _read(path).tensors if kind.startswith("q") else ():
        if len(one.shape) > 1 and one.name not in IN_FULL and (inputs := int(one.shape[0])) % block_of(kind):
            matrix = one.name.removesuffix(".weight").rpartition(".")[2]
            found.setdefault(f"{matrix} ({inputs} inputs)", set()).add(one.tensor_type.name)
    return {matrix: " and ".join(sorted(types)) for matrix, types in found.items()}


def part_of(name: str) -> str:
    """Which part of the model a tensor of GGUF is of."""
    parts: Mapping[str, str] = {
        "blk": "blocks",
        "token_embd": "embedding",
        "position_embd": "embedding",
        "output": "head",
    }
    return parts.get(name.split(".")[0], "rest")


def _read(path: Path) -> GGUFReader:
    import gguf

    return gguf.GGUFReader(path)
