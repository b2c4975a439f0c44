"""What of a shard is labelled already, so that a kill loses one pass of the teacher at most."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from numpy.typing import NDArray
from safetensors.numpy import load, save

_RECORD = struct.Struct("<II")  # length, CRC-32 of this record, begun with that of the one before: none can be missing


class Journal:
    """Records in a file, in order. Whoever has it open is the only one: `is_mine` is false where another process has."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._file, self._before = path.open("a+b"), 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_mine = True
        except BlockingIOError:
            self.is_mine = False

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()

    def replay(self) -> Iterator[dict[str, NDArray]]:
        """All whole records. What a kill left half written, or what is not what was written, is cut off with all that follows it."""
        self._file.seek(0)
        end, self._before, whole = 0, 0, os.fstat(self._file.fileno()).st_size
        while len(head := self._file.read(_RECORD.size)) == _RECORD.size:
            size, crc = _RECORD.unpack(head)
            # A damaged length would ask for gigabytes; a file that a crash ended in zeros, for nothing.
            blob = self._file.read(size) if size <= whole - end else b""
            if not blob or len(blob) != size or zlib.crc32(blob, self._before) != crc:
                break
            end, self._before = self._file.tell(), crc
            yield load(blob)
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, arrays: dict[str, NDArray]) -> int:
        """Write a record; its bytes. Raises OSError, and then the record is as good as never written."""
        blob = save(arrays)
        crc = zlib.crc32(blob, self._before)
        self._file.write(_RECORD.pack(len(blob), crc) + blob)
        self._file.flush()
        self._before = crc
        return len(blob)

    def delete(self) -> None:
        """The shard is there, and this is not needed any more."""
        self.path.unlink(missing_ok=True)


def take(path: Path) -> Journal | None:
    """The journal of the shard to be at `path`, locked; None where the shard is there, or another process labels it. Raises OSError."""
    if path.exists():
        return None
    journal = Journal(path.with_suffix(".journal"))
    # Looked at again with the lock in hand: another process may just have finished it.
    if journal.is_mine and not path.exists():
        return journal
    if journal.is_mine:
        journal.delete()
    journal.close()
    return None
