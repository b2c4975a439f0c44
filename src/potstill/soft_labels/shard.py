"""One shard: pages of labels that can be read alone, then a footer that says where they are. docs/soft-label-format.md has the bytes.

A page holds some consecutive predictions, each stream of it compressed by pcodec; pages share what pcodec learned of a stream
(the chunk's meta). The footer is a safetensors blob. Everything is under a CRC: header and trailer by what they must say.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, wrapped  # type: ignore[attr-defined]
from safetensors.numpy import load, save

from potstill.errors import StoreError
from potstill.soft_labels.streams import Encoded

VERSION = 1
_MAGIC = b"potstill"
_HEADER = struct.Struct("<8sII")  # magic, version, 0
_TRAILER = struct.Struct("<QIII8s")  # footer's offset, length and CRC-32, version, magic
# Numbers that share what pcodec learns of them; it takes 2^24 at most.
_MOST_IN_CHUNK = 2**22


@dataclass(frozen=True)
class Documents:
    """What a shard is of.

    keys    uint8 [documents, 16]
    tokens  uint32 [documents]: predictions labelled
    sums    float64 [documents, sums]: of what was observed on the way (see observed.py)
    """

    keys: NDArray[np.uint8]
    tokens: NDArray[np.uint32]
    sums: NDArray[np.float64]


def write_shard(path: Path, documents: Documents, encoded: Encoded, *, page_tokens: int, store: str) -> None:
    """There is a whole shard at `path` afterwards, or none. Raises OSError."""
    starts = np.arange(0, len(encoded), page_tokens)
    entries = {name: np.add.reduceat(counts, starts) for name, counts in encoded.counts.items()}
    chunks = _chunks(entries)
    compressed = {name: _compressed(encoded.arrays[name], entries[name], chunks) for name in encoded.arrays}
    sizes, crcs, offset = [], [], _HEADER.size
    offsets = [offset]
    with whole_file(path) as file:
        file.write(_HEADER.pack(_MAGIC, VERSION, 0))
        for page in range(len(starts)):
            pieces = [compressed[name].pages[page] for name in compressed]
            whole = b"".join(pieces)
            file.write(whole)
            sizes.append([len(piece) for piece in pieces])
            crcs.append(zlib.crc32(whole))
            offsets.append(offset := offset + len(whole))
        footer = _footer(documents, encoded, entries, compressed, chunks)
        footer |= {
            "page_offset": np.array(offsets, dtype=np.uint64),
            "page_bytes": np.array(sizes, dtype=np.uint32).reshape(len(starts), -1),
            "page_crc": np.array(crcs, dtype=np.uint32),
        }
        facts = {
            "streams": [[name, array.dtype.str] for name, array in encoded.arrays.items()],
            "page_tokens": page_tokens,
            "tokens": len(encoded),
            "store": store,
        }
        # One entry: safetensors writes several in any order, and the same labels are to be the same bytes.
        blob = save(footer, metadata={"facts": json.dumps(facts)})
        file.write(blob)
        file.write(_TRAILER.pack(offset, len(blob), zlib.crc32(blob), VERSION, _MAGIC))


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Written beside, then renamed: at `path` there is all that was written, or nothing. Raises OSError."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


class Shard:
    """A shard to read from; any number of processes may, forked or spawned.

    The file is opened for each page and not kept open: a store may have more shards than a process may have open files, and a file that is
    cut off meanwhile is a page that is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Reads the footer alone. StoreError for what is no whole shard."""
        self.path = path
        with self._opened() as file:
            self.num_bytes = os.fstat(file.fileno()).st_size
            self._footer, self.facts = self._read_footer(file)
        self.streams: list[tuple[str, np.dtype]] = [(name, np.dtype(kind)) for name, kind in self.facts["streams"]]
        self.page_tokens, self.num_tokens = self.facts["page_tokens"], self.facts["tokens"]
        self._decoders: dict[tuple[int, str], object] = {}

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        return Shard, (self.path,)

    @cached_property
    def documents(self) -> Documents:
        """What it is of."""
        return Documents(*(self._footer[f"document_{name}"] for name in ("keys", "tokens", "sums")))

    def stream_bytes(self) -> dict[str, int]:
        """Compressed bytes by stream."""
        return dict(zip((name for name, _ in self.streams), self._footer["page_bytes"].sum(0).tolist(), strict=True))

    def page(self, number: int) -> dict[str, NDArray]:
        """The streams of a page, decompressed. StoreError where its bytes are not those that were written."""
        offsets = self._footer["page_offset"]
        with self._opened() as file:
            raw = os.pread(file.fileno(), int(offsets[number + 1]) - int(offsets[number]), int(offsets[number]))
        if zlib.crc32(raw) != int(self._footer["page_crc"][number]):
            raise _damaged(self.path, f"page {number} is not what was written")
        sizes, numbers = (self._footer[what][number].tolist() for what in ("page_bytes", "page_entries"))
        chunk, place, found = int(self._footer["page_chunk"][number]), 0, {}
        for index, (name, dtype) in enumerate(self.streams):
            size, entries = sizes[index], numbers[index]
            found[name] = np.empty(entries, dtype=dtype)
            if entries:
                piece = raw[place : place + size]
                self._decoder(chunk, name, dtype).read_page_into(piece, entries, found[name])  # type: ignore[attr-defined]
            place += size
        return found

    def _decoder(self, chunk: int, name: str, dtype: np.dtype) -> object:
        key = (chunk, name)
        if key not in self._decoders:
            header, meta = (self._footer[what].tobytes() for what in ("pcodec", f"meta/{chunk}/{name}"))
            file, _ = wrapped.FileDecompressor.new(header)
            self._decoders[key], _ = file.chunk_decompressor(meta, f"{dtype.kind}{8 * dtype.itemsize}")
        return self._decoders[key]

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise _damaged(self.path, f"it can't be read: {error}") from error

    def _read_footer(self, file: BinaryIO) -> tuple[dict[str, NDArray], dict]:
        if self.num_bytes < _HEADER.size + _TRAILER.size:
            raise _damaged(self.path, f"it has {self.num_bytes} bytes")
        magic, version, zero = _HEADER.unpack(file.read(_HEADER.size))
        file.seek(self.num_bytes - _TRAILER.size)
        offset, size, crc, version_again, magic_again = _TRAILER.unpack(file.read(_TRAILER.size))
        if magic != _MAGIC or magic_again != _MAGIC or version != version_again or zero != 0:
            raise _damaged(self.path, "it does not begin and end as a shard does")
        if version > VERSION:
            raise StoreError(
                f"{self.path} is of version {version} and this potstill reads up to {VERSION}: install a newer potstill"
            )
        is_whole = offset + size + _TRAILER.size == self.num_bytes
        blob = os.pread(file.fileno(), size, offset) if is_whole else b""
        if not blob or zlib.crc32(blob) != crc:
            raise _damaged(self.path, "its footer is not what was written")
        length = struct.unpack("<Q", blob[:8])[0]
        return load(blob), json.loads(json.loads(blob[8 : 8 + length])["__metadata__"]["facts"])


@dataclass(frozen=True)
class _Compressed:
    metas: list[bytes]
    pages: list[bytes]


def _chunks(entries: Mapping[str, NDArray[np.int64]]) -> NDArray[np.uint32]:
    """The chunk of each page: as many consecutive pages as have at most so many numbers in every stream."""
    most = np.max(np.stack(list(entries.values())), axis=0)
    chunks, number, filled = np.zeros(len(most), dtype=np.uint32), 0, 0
    for page, size in enumerate(most.tolist()):
        if filled and filled + size > _MOST_IN_CHUNK:
            number, filled = number + 1, 0
        filled += size
        chunks[page] = number
    return chunks


def _compressed(array: NDArray, entries: NDArray[np.int64], chunks: NDArray[np.uint32]) -> _Compressed:
    metas, pages, start = [], [], 0
    for chunk in range(int(chunks.max()) + 1 if len(chunks) else 0):
        sizes: list[int] = entries[chunks == chunk].tolist()
        config = ChunkConfig(
            compression_level=8,
            mode_spec=ModeSpec.classic(),
            delta_spec=DeltaSpec.no_op(),
            # pcodec has no empty pages; an empty one of ours has no bytes.
            paging_spec=PagingSpec.exact_page_sizes([size for size in sizes if size] or [0]),
            enable_8_bit=True,
        )
        total = sum(sizes)
        if total == 0:
            metas.append(b"")
            pages.extend(b"" for _ in sizes)
            continue
        compressor = wrapped.FileCompressor().chunk_compressor(
            np.ascontiguousarray(array[start : start + total]), config
        )
        metas.append(compressor.write_meta())
        numbers = iter(range(len(sizes)))
        pages.extend(compressor.write_page(next(numbers)) if size else b"" for size in sizes)
        start += total
    return _Compressed(metas, pages)


def _footer(
    documents: Documents,
    encoded: Encoded,
    entries: Mapping[str, NDArray[np.int64]],
    compressed: Mapping[str, _Compressed],
    chunks: NDArray[np.uint32],
) -> dict[str, NDArray]:
    metas = {
        f"meta/{chunk}/{name}": np.frombuffer(meta, dtype=np.uint8)
        for name, one in compressed.items()
        for chunk, meta in enumerate(one.metas)
    }
    return metas | {
        "document_keys": documents.keys,
        "document_tokens": documents.tokens,
        "document_sums": documents.sums,
        "page_entries": np.stack([entries[name] for name in encoded.arrays], axis=1).astype(np.uint32),
        "page_chunk": chunks,
        "pcodec": np.frombuffer(wrapped.FileCompressor().write_header(), dtype=np.uint8),
    }


def _sync_folder(folder: Path) -> None:
    """A rename is on disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {what}. Delete that file and run `potstill label` again: only what is missing is labelled anew"
    )
