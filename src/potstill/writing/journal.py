"""What is written already: a line of JSON a prompt, on disk before the next one is taken. A kill loses what was on its way, no more."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from potstill.checks import check_of_json
from potstill.errors import DataError, RunDirectoryError
from potstill.writing.samples import Written

_FIRST, _CHECK = "journal of", "check"


def begun_with(path: Path) -> Mapping[str, object] | None:
    """What the journal there says it is of; None where there is none, or one whose first line is damaged, which `Journal` refuses."""
    try:
        with path.open("rb") as lines:
            found = json.loads(lines.readline())[_FIRST]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


class Journal:
    """Appends, and finds again by a prompt's id. One process at a time.

    Its first line says what decides the text (teacher, sampling); a journal of other things is refused. Each line ends with a check of
    itself; lines that an earlier potstill wrote have none.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        """Open or begin. RunDirectoryError for one that is in use or of something else; DataError for a damaged one."""
        self.path = path
        self._places: dict[str, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RunDirectoryError(
                f"{path} is being written by another process: wait for it, or choose --out"
            ) from None
        except OSError as error:
            raise RunDirectoryError(f"{path} can't be written: {error.strerror or error}") from error
        try:
            self._begin(json.loads(json.dumps(identity)))
        except (DataError, RunDirectoryError):
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, written: Written) -> None:
        """On disk when this returns."""
        if written.id in self._places:
            raise ValueError(f"{written.id} is written already")
        self._places[written.id] = self._append(written.to_json())

    def read(self, prompt_id: str) -> Written:
        """What was written. KeyError where nothing was."""
        self._file.seek(self._places[prompt_id])
        return Written.from_json(json.loads(self._file.readline()))

    def _append(self, record: Mapping[str, object]) -> int:
        place = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(json.dumps({**record, _CHECK: check_of_json(record)}, ensure_ascii=True).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunDirectoryError(
                f"can't write {self.path}: {error.strerror or error}. Free some space, then start the same command again"
            ) from error
        return place

    def _begin(self, identity: dict[str, object]) -> None:
        self._file.seek(0)
        end, is_checked = 0, False
        for number, line in enumerate(iter(self._file.readline, b""), 1):
            if not line.endswith(b"\n"):
                break  # what a kill left half written
            record = self._parsed(line, number, is_checked)
            if number == 1:
                is_checked = _CHECK in record
                self._check_is_ours(record, identity)
            else:
                self._places[str(record["id"])] = end
            end += len(line)
        self._file.truncate(end)
        if end == 0:
            self._append({_FIRST: identity})

    def _parsed(self, line: bytes, number: int, is_checked: bool) -> Mapping[str, object]:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and (_FIRST if number == 1 else "id") in record:
                known = {name: value for name, value in record.items() if name != _CHECK}
                # What the first line says is held against what is wanted.
                if number == 1 or record.get(_CHECK, None if is_checked else check_of_json(known)) == check_of_json(
                    known
                ):
                    return record
        except (ValueError, RecursionError):
            pass
        what = "move the file away" if number == 1 else "delete that line"
        raise DataError(f"{self.path}, line {number} is damaged: {what} and start the same command again")

    def _check_is_ours(self, record: Mapping[str, object], identity: dict[str, object]) -> None:
        found = record[_FIRST]
        assert isinstance(found, dict)
        for name in identity | found:
            if found.get(name) != identity.get(name):
                raise RunDirectoryError(
                    f"{self.path} was written with {name} = {found.get(name)!r}, and now it is {identity.get(name)!r}: choose another "
                    "folder (--out), or delete it"
                )
