"""Documents as flat arrays of token ids and the weight of predicting each."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from numpy.typing import NDArray

from potstill.checks import check_of_json
from potstill.data.documents import Document
from potstill.data.spelling import spelled_tokens
from potstill.data.splits import Split, split_of
from potstill.errors import DataError, RunDirectoryError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DOCUMENTS_AT_ONCE = 256
_CORPUS_FILE = "corpus.json"


@dataclass(frozen=True)
class TokenCorpus:
    """A tokenised corpus. Document d has the tokens ids[offsets[d]:offsets[d + 1]].

    ids          uint32, all documents end to end
    weights      float32, of *predicting* that token; 0 for the first of a document, before which nothing was read
    offsets      int64 [documents + 1]
    keys         one a document; it decides the split
    is_sample    bool [documents]: a prompt with its answer, never cut into windows
    token_bytes  uint16 [vocabulary]: how many bytes of text each token stands for
    labels       int64 [documents]: the class of a labelled text, -1 elsewhere
    teachers     int64 [documents]: the number of the teacher that a document names, -1 elsewhere
    domains      one a document, or none at all: what its record says of where it belongs, "" where it says nothing
    """

    ids: NDArray[np.uint32]
    weights: NDArray[np.float32]
    offsets: NDArray[np.int64]
    keys: tuple[str, ...]
    is_sample: NDArray[np.bool_]
    token_bytes: NDArray[np.uint16]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    teachers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("labels", "teachers"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(len(self.keys), -1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_tokens(self) -> int:
        """Of all documents."""
        return int(self.offsets[-1])

    @cached_property
    def num_bytes(self) -> NDArray[np.int64]:
        """int64 [documents]: UTF-8 bytes of the text under counted tokens. Exact for byte-level vocabularies."""
        under = np.where(self.weights > 0, self.token_bytes[self.ids], 0).astype(np.int64)
        return np.add.reduceat(np.append(under, 0), self.offsets[:-1]) * (np.diff(self.offsets) > 0)

    def document(self, index: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """(ids, weights) of one document."""
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self.ids[span], self.weights[span]

    def select(self, documents: Sequence[int] | NDArray[np.int64]) -> TokenCorpus:
        """These documents alone, in this order."""
        return self.beginnings(None, documents)

    def beginnings(self, most: int | None, documents: Sequence[int] | NDArray[np.int64]) -> TokenCorpus:
        """These documents, each cut to its first `most` predictions (most + 1 tokens)."""
        chosen = np.asarray(documents, dtype=np.int64)
        starts, sizes = self.offsets[chosen], np.diff(self.offsets)[chosen]
        if most is not None:
            sizes = np.minimum(sizes, most + 1)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        places = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
        return TokenCorpus(
            self.ids[places],
            self.weights[places],
            offsets,
            tuple(self.keys[d] for d in chosen),
            self.is_sample[chosen],
            self.token_bytes,
            self.labels[chosen],
            self.teachers[chosen],
            tuple(self.domains[d] for d in chosen) if self.domains else (),
        )

    def part(self, split: Split, *, held_out: float = 0.10, search: float = 0.05) -> TokenCorpus:
        """The documents whose keys fall into this split."""
        return self.select(
            [d for d, key in enumerate(self.keys) if split_of(key, held_out=held_out, search=search) == split]
        )

    def save(self, folder: Path) -> None:
        """Write the arrays below the folder, corpus.json last: without it there is no corpus. RunDirectoryError when the disk is full."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in _ARRAYS:
                with (folder / f"{name}.npy").open("wb") as file:
                    _write_array(file, np.ascontiguousarray(getattr(self, name)))
            part = folder / f"{_CORPUS_FILE}.part"
            lists = {name: getattr(self, name) for name in _LISTS}
            checks = {name: _check_of(getattr(self, name)) for name in _ARRAYS}
            checks |= {name: check_of_json(lists[name]) for name in _LISTS}
            part.write_text(json.dumps({"version": 2, **lists, "checks": checks}), "utf-8")
            part.replace(folder / _CORPUS_FILE)
        except OSError as error:
            raise RunDirectoryError(
                f"can't write the tokenised text to {folder}: {error.strerror or error}. Free some space or choose another folder, then "
                "start again"
            ) from error

    @classmethod
    def load(cls, folder: Path) -> TokenCorpus:
        """A saved corpus, memory-mapped; DataError when there is none, or it is not what was saved.

        Of arrays over 256 MiB length and type are compared, not the bytes.
        """
        try:
            lists = json.loads((folder / _CORPUS_FILE).read_text("utf-8"))
            names = {name: tuple(lists[name]) for name in _LISTS}
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
            if lists["version"] != 1:
                found = {name: _check_of(array) for name, array in arrays.items()}
                found |= {name: check_of_json(names[name]) for name in _LISTS}
                if changed := [name for name in found if found[name] != lists["checks"][name]]:
                    raise ValueError(f"{changed[0]} is not what was written")
        except (
            OSError,
            ValueError,
            ArithmeticError,
            EOFError,
            RecursionError,
            KeyError,
            TypeError,
            SyntaxError,
            TokenError,
        ) as error:
            raise DataError(f"{folder} holds no tokenised corpus ({error}): delete it and run again") from error
        return cls(**names, **arrays)


def _write_array(file: IO[bytes], array: NDArray[Any]) -> None:
    """As np.save, which hands a real file to C and hears nothing of a disk that is full when the last bytes are written."""
    write_array_header_1_0(file, header_data_from_array_1_0(array))
    file.write(array.data)


def _check_of(array: NDArray) -> str:
    """Of type and shape, and of the bytes where reading them costs nothing to speak of: larger arrays are mapped, not read."""
    known = f"{zlib.crc32(np.ascontiguousarray(array).data):08x}" if array.nbytes <= _CHECKED_BYTES else "large"
    return f"{array.dtype.str} {array.shape} {known}"


_LISTS, _CHECKED_BYTES = ("keys", "domains"), 2**28
_ARRAYS = tuple(one.name for one in fields(TokenCorpus) if one.name not in _LISTS)


def tokenize(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    classes: Mapping[str, int] | None = None,
    teachers: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenCorpus:
    """Tokenise a corpus; `progress` is told (documents, tokens) now and then. With `classes`, each document's label becomes its number;
    with `teachers`, so does the teacher it names (DataError where it names none of them).

    What the tokenizer itself puts in front (BOS) stays; an end-of-text token goes behind documents that end, if there is one
    and it is not there. Documents that are token ids already stay as they are. The text of a prompt and its completion is
    tokenised as one; a token that reaches into what counts counts. Needs a fast tokenizer (DataError).
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, and its tokens can't be placed in the text"
        )
    pieces: list[tuple[NDArray[np.uint32], NDArray[np.float32]]] = []
    keys: list[str] = []
    is_sample: list[bool] = []
    labels: list[int] = []
    marked_by: list[int] = []
    domains: list[str] = []
    num_tokens = 0
    for some in _batched(documents, _DOCUMENTS_AT_ONCE):
        for document, piece in zip(some, _pieces(some, tokenizer), strict=True):
            pieces.append(piece)
            keys.append(document.key)
            is_sample.append(document.is_sample)
            labels.append(-1 if classes is None else _class_of(document, classes))
            domains.append(document.domain or "")
            marked_by.append(-1 if teachers is None else _teacher_of(document, teachers))
            num_tokens += len(piece[0])
        if progress is not None:
            progress(len(keys), num_tokens)
    return TokenCorpus(
        ids=np.concatenate([ids for ids, _ in pieces]) if pieces else np.zeros(0, np.uint32),
        weights=np.concatenate([weights for _, weights in pieces]) if pieces else np.zeros(0, np.float32),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in pieces)], dtype=np.int64),
        keys=tuple(keys),
        is_sample=np.array(is_sample, dtype=np.bool_),
        token_bytes=bytes_of_tokens(tokenizer),
        labels=np.array(labels, dtype=np.int64),
        teachers=np.array(marked_by, dtype=np.int64),
        domains=tuple(domains) if any(domains) else (),
    )


def _class_of(document: Document, classes: Mapping[str, int]) -> int:
    """Its number, which a label may be already, or as text."""
    label = document.label
    if label is None:
        return -1
    if isinstance(label, int) and label in classes.values():
        return label
    found = classes.get(str(label))
    if found is None:
        known = ", ".join(list(classes)[:8]) + (", ..." if len(classes) > 8 else "")
        raise DataError(f"the text {document.text[:40]!r} has the label {label!r}, and the model knows {known}")
    return found


def _teacher_of(document: Document, teachers: Mapping[str, int]) -> int:
    if document.teacher is None or document.teacher not in teachers:
        named = "names no teacher" if document.teacher is None else f"names the teacher {document.teacher!r}"
        raise DataError(
            f"the text {document.text[:40]!r} {named}, and there are {', '.join(teachers)}: name one of them in its column "
            "(data.columns.teacher)"
        )
    return teachers[document.teacher]


def bytes_of_tokens(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.uint16]:
    """How many bytes of text each token id stands for; 0 for special tokens. As exact as their spelling."""
    return np.array([len(spelling) for spelling in spelled_tokens(tokenizer)], dtype=np.uint16)


def check_learnable(corpus: TokenCorpus) -> None:
    """DataError when nothing in the corpus is learned from."""
    if not (corpus.weights > 0).any():
        raise DataError(
            f"none of the {corpus.num_tokens:,} tokens in {len(corpus):,} documents counts: completions are empty, or chats have no "
            "turn of the assistant. `potstill preview` shows what would be learned"
        )


def _pieces(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.float32]]]:
    for has_ids, some in itertools.groupby(documents, key=lambda document: document.tokens is not None):
        if not has_ids:
            yield from _encoded(list(some), tokenizer)
            continue
        for document in some:
            assert document.tokens is not None
            ids = np.array(document.tokens.ids, dtype=np.uint32)
            if len(ids) and int(ids.max()) >= len(tokenizer):
                raise DataError(
                    f"the text has the token id {int(ids.max()):,}, and the tokenizer knows {len(tokenizer):,} tokens: the ids are of "
                    "another tokenizer"
                )
            weights = np.array(document.tokens.counts, dtype=np.float32)
            weights[:1] = 0
            yield ids, weights


def _encoded(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.float32]]]:
    # A chat's template has written the special tokens already.
    for rendered, group in itertools.groupby(documents, key=lambda document: not document.ends):
        some = list(group)
        encodings = tokenizer([document.text for document in some], add_special_tokens=not rendered, verbose=False)
        for index, document in enumerate(some):
            ids = np.array(encodings["input_ids"][index], dtype=np.uint32)
            if all(part.counts for part in document.parts):
                weights = np.ones(len(ids), dtype=np.float32)
            else:
                weights = _weights(document, encodings[index].offsets, encodings[index].special_tokens_mask)
            end = tokenizer.eos_token_id
            if document.ends and end is not None:
                if len(ids) > 1 and ids[-1] == end:
                    weights[-1] = 1
                else:
                    ids, weights = np.append(ids, np.uint32(int(str(end)))), np.append(weights, np.float32(1))
            weights[:1] = 0
            yield ids, weights * np.float32(document.weight)


def _weights(document: Document, offsets: Sequence[tuple[int, int]], put_there: Sequence[int]) -> NDArray[np.float32]:
    """1 for tokens that have a character in a part that counts; 0 for those that the tokenizer put there (`put_there`).

    A token begins where the one before ended: some tokenizers report spaces without their characters (trim_offsets).
    """
    lengths = np.cumsum([0, *(len(part.text) for part in document.parts)])
    counts = np.concatenate([np.full(len(part.text), part.counts) for part in document.parts] or [np.zeros(0, bool)])
    before = np.concatenate([[0], np.cumsum(counts)])
    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).clip(0, lengths[-1]).T
    is_of_text = np.array(put_there) == 0
    reached = np.concatenate([[0], np.maximum.accumulate(np.where(is_of_text, ends, 0))])[:-1] if len(ends) else ends
    starts = np.minimum(starts, reached)
    return ((before[ends] > before[starts]) & is_of_text).astype(np.float32)


def _batched(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    rest = iter(documents)
    while some := list(itertools.islice(rest, size)):
        yield some
