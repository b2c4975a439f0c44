"""Text from wherever users have it, one Document at a time, never the whole of it in memory.

A document is a run of parts, each of which counts (is learned from) or is only read: all of a plain text, the completion of
a prompt, the assistant's turns of a chat.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.data.chat import chat_parts, check_is_unicode
from potstill.data.records import (
    ENDINGS,
    hub_dataset,
    is_saved_dataset,
    json_lines,
    neighbours,
    not_utf8,
    parquet_rows,
    saved_dataset,
    source_files,
)
from potstill.data.standard_library import standard_library_files
from potstill.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STANDARD_LIBRARY = "standard-library"
# A document of a file that is alone: at a blank line beyond the first number, or at any line's end beyond the second.
_SECTION_CHARACTERS, _LONGEST_SECTION = 4_000, 16_000


@dataclass(frozen=True)
class Part:
    """A stretch of text; `counts` says whether predicting it is learned from."""

    text: str
    counts: bool


@dataclass(frozen=True)
class Tokens:
    """A text as token ids; `counts` says of each whether predicting it is learned from."""

    ids: tuple[int, ...]
    counts: tuple[bool, ...]


@dataclass(frozen=True)
class Document:
    """One text with a key that decides its split.

    is_sample  a prompt with its completion, or a chat: it is used from its beginning or not at all, while plain text may be
               cut into windows
    ends       an end-of-text token belongs behind it; is False for a chat, whose template ends its turns itself
    tokens     token ids that somebody has made already: they stay as they are, and there are no parts
    label      the class it belongs to, where there is one
    weight     how much each of its predictions counts in the loss, beside 1
    domain     where it belongs, as its record says
    teacher    the name of the teacher that marks it, where its record names one
    """

    key: str
    parts: tuple[Part, ...]
    is_sample: bool = False
    ends: bool = True
    tokens: Tokens | None = None
    label: int | str | None = None
    weight: float = 1.0
    teacher: str | None = None
    domain: str | None = None

    @property
    def text(self) -> str:
        """All of it; empty where it came as token ids."""
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, in JSONL, Parquet and datasets."""

    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    ids: str = "input_ids"
    labels: str = "labels"
    label: str = "label"
    weight: str = "loss_weight"
    split: str = "split_key"
    ends: str = "ends"
    teacher: str = "teacher"
    domain: str = "domain"


def read_documents(
    source: str | Path,
    *,
    columns: Columns | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    split: str = "train",
) -> Iterator[Document]:
    """The documents of a text file, a folder of them, .jsonl, .parquet, a `datasets` folder, a hub name or "standard-library".

    A text file that is alone is cut at blank lines into sections of about 4,000 characters (at line ends beyond 16,000), each a
    document, so that some can be held out; in a folder of several every file is one document. Chats need the tokenizer, for
    its template. Raises DataError when there is nothing to read, or something that can't be read, and says which file and line.
    """
    columns = columns or Columns()
    if str(source) == STANDARD_LIBRARY:
        found = (_plain(text, key=key) for key, text in standard_library_files())
    else:
        found = _documents_of(source, columns, tokenizer, split)
    is_empty = True
    for document in found:
        is_empty = False
        yield document
    if is_empty:
        raise DataError(f"{source} holds no text: give a file or folder with at least one document that is not blank")


def _documents_of(
    source: str | Path, columns: Columns, tokenizer: PreTrainedTokenizerBase | None, split: str
) -> Iterator[Document]:
    path = Path(source).expanduser()
    if os.path.isdir(path):
        if is_saved_dataset(path):
            return documents_of_records(saved_dataset(path, split), columns, tokenizer)
        return _from_folder(path, columns, tokenizer)
    if os.path.isfile(path):
        return _from_file(path, columns, tokenizer, is_alone=True)
    if path.suffix or str(source).startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        raise DataError(f"no such file or folder: {source}{neighbours(path)}")
    return documents_of_records(hub_dataset(str(source), split), columns, tokenizer)


def _from_folder(path: Path, columns: Columns, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[Document]:
    files = source_files(path)
    if not files:
        raise DataError(f"{path} has no text in it: looked for {', '.join(ENDINGS)} in it and the folders below")
    for file in files:
        yield from _from_file(file, columns, tokenizer, is_alone=len(files) == 1)


def _from_file(
    path: Path, columns: Columns, tokenizer: PreTrainedTokenizerBase | None, *, is_alone: bool
) -> Iterator[Document]:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return documents_of_records(json_lines(path), columns, tokenizer)
    if path.suffix.lower() == ".parquet":
        return documents_of_records(parquet_rows(path), columns, tokenizer)
    if path.suffix.lower() == ".json":
        raise DataError(f"{path} is JSON: write one JSON object a line and call it .jsonl")
    return _from_text(path, is_alone=is_alone)


def _from_text(path: Path, *, is_alone: bool) -> Iterator[Document]:
    section: list[str] = []
    size = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if is_alone and size >= (_LONGEST_SECTION if line.strip() else _SECTION_CHARACTERS):
                    yield from _if_not_blank("".join(section))
                    section, size = [], 0
                section.append(line)
                size += len(line)
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(path, error)) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    yield from _if_not_blank("".join(section))


def _if_not_blank(text: str) -> Iterator[Document]:
    if text.strip():
        yield _plain(text)


def documents_of_records(
    records: Iterable[tuple[str, Mapping[str, object]]], columns: Columns, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[Document]:
    """The text in rows: of each that isn't blank, a document. Raises DataError for columns that hold none."""
    for where, record in records:
        document = _document_of(record, columns, tokenizer, where)
        if document is not None:
            teacher, domain = (record.get(name) for name in (columns.teacher, columns.domain))
            yield replace(
                document,
                teacher=teacher if isinstance(teacher, str) else None,
                domain=None if domain is None else str(domain),
            )


def _document_of(
    record: Mapping[str, object], columns: Columns, tokenizer: PreTrainedTokenizerBase | None, where: str
) -> Document | None:
    if record.get(columns.messages) is not None:
        if tokenizer is None:
            raise DataError(f"{where} is a chat, which needs a tokenizer with a chat template")
        parts = tuple(Part(text, counts) for text, counts in chat_parts(record[columns.messages], tokenizer, where))
        return _of_row(Document(_key(parts), parts, is_sample=True, ends=False), record, columns, where)
    if columns.completion in record and columns.prompt in record:
        prompt, completion = (_text_in(record, name, where) for name in (columns.prompt, columns.completion))
        parts = (Part(prompt, False), Part(completion, True))
        ends = record.get(columns.ends) is not False
        return _of_row(Document(_key(parts), parts, is_sample=True, ends=ends), record, columns, where)
    if columns.text in record:
        text = _text_in(record, columns.text, where)
        return replace(_plain(text), label=_label_in(record, columns.label)) if text.strip() else None
    if columns.ids in record:
        return _tokenized(record, columns, where)
    raise DataError(_wrong_columns(where, record, columns))


def _of_row(sample: Document, record: Mapping[str, object], columns: Columns, where: str) -> Document:
    """The sample, with the weight and the key for splitting that its row gives it."""
    weight, key = record.get(columns.weight), record.get(columns.split)
    if weight is not None:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise DataError(f"{where}: {columns.weight!r} is {weight!r}, and needs a number above 0")
        sample = replace(sample, weight=float(weight))
    return replace(sample, key=key) if isinstance(key, str) and key else sample


def _tokenized(record: Mapping[str, object], columns: Columns, where: str) -> Document:
    """From token ids; what is -100 among the labels, as is usual, isn't learned from, and neither is what attention is turned off for."""
    ids, labels, seen = (record.get(name) for name in (columns.ids, columns.labels, "attention_mask"))
    found: list[list[int]] = []
    for name, values in ((columns.ids, ids), (columns.labels, labels), ("attention_mask", seen)):
        if values is None and name != columns.ids:
            continue
        if not isinstance(values, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise DataError(f"{where}: {name!r} is not a list of whole numbers")
        if len(values) != len(ids):  # type: ignore[arg-type]
            raise DataError(f"{where}: {name!r} has {len(values)} entries for {len(ids)} tokens")  # type: ignore[arg-type]
        found.append(values)
    if min(found[0], default=0) < 0:
        raise DataError(f"{where}: {columns.ids!r} has the token id {min(found[0])}")
    of_labels = labels if isinstance(labels, list) else found[0]
    of_seen = seen if isinstance(seen, list) else [1] * len(found[0])
    kept = [place for place, is_seen in enumerate(of_seen) if is_seen]  # padding goes
    tokens = Tokens(tuple(found[0][p] for p in kept), tuple(of_labels[p] != -100 for p in kept))
    digest = hashlib.blake2b(repr(tokens).encode(), digest_size=16).hexdigest()
    return Document(digest, (), is_sample=not all(tokens.counts[1:]), ends=False, tokens=tokens)


def _label_in(record: Mapping[str, object], column: str) -> int | str | None:
    """A name or a whole number; None where there is none, which who needs one refuses."""
    value = record.get(column)
    return int(value) if isinstance(value, bool) else value if isinstance(value, int | str) else None


def _text_in(record: Mapping[str, object], column: str, where: str) -> str:
    value = record[column]
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} is {'empty (null)' if value is None else type(value).__name__}, not text")
    check_is_unicode(value, where)
    return value


def _wrong_columns(where: str, record: Mapping[str, object], columns: Columns) -> str:
    names = [getattr(columns, field.name) for field in fields(columns)]
    close = [
        f"{name!r} for {field.name}"
        for field in fields(columns)
        if getattr(columns, field.name) not in record
        for name in difflib.get_close_matches(getattr(columns, field.name), record, n=1, cutoff=0.7)
    ]
    hint = f" (did you mean {', '.join(close)}?)" if close else ""
    return (
        f"{where} has columns {', '.join(map(repr, record)) or 'none'}, and needs {names[0]!r}, or {names[1]!r} and {names[2]!r}, "
        f"or {names[3]!r}, or {names[4]!r} (token ids){hint}. Name the columns so; a recipe may say instead which hold what, "
        '[data.columns]: prompt = "question"'
    )


def _plain(text: str, key: str | None = None) -> Document:
    parts = (Part(text, True),)
    return Document(key or _key(parts), parts)


def _key(parts: tuple[Part, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
