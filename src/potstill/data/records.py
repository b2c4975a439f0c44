"""Rows of tables and lines of JSON, from wherever users have them, with the place they stand at."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from potstill.errors import DataError

TEXT_ENDINGS = (".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".log", ".text")
ENDINGS = (*TEXT_ENDINGS, ".jsonl", ".parquet")


def read_records(source: str | Path, *, split: str = "train") -> Iterator[tuple[str, Mapping[str, object]]]:
    """(where it stands, columns) of each row of a .jsonl or .parquet file, a folder of them, a `datasets` folder or a hub name."""
    path = Path(source).expanduser()
    if is_saved_dataset(path):
        yield from saved_dataset(path, split)
    elif not os.path.exists(path) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) and not path.suffix:
        yield from hub_dataset(str(source), split)
    else:
        files = [file for file in source_files(path) if file.suffix.lower() not in TEXT_ENDINGS]
        if not files:
            if not os.path.exists(path):
                raise DataError(f"no such file or folder: {source}{neighbours(path)}")
            raise DataError(
                f"{source} has no rows: give a .jsonl or .parquet file, a folder of them, or a saved dataset"
            )
        for file in files:
            yield from parquet_rows(file) if file.suffix.lower() == ".parquet" else json_lines(file)


def source_files(source: str | Path) -> list[Path]:
    """The files a source is read from, in order: itself, or the text files in a folder; none for a name that is no path."""
    path = Path(source).expanduser()
    if is_saved_dataset(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    if os.path.isdir(path):
        return [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in ENDINGS]
    return [path] if os.path.isfile(path) else []


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` wrote this folder."""
    return any(os.path.exists(path / name) for name in ("dataset_info.json", "dataset_dict.json"))


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects of a file with one a line. DataError for a line that is none."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    shown = line.strip()[:60]
                    raise DataError(f"{where} is not JSON ({error}): {shown!r}. Mend or delete that line") from error
                if not isinstance(record, dict):
                    raise DataError(f"{where} is a JSON {type(record).__name__}, and an object with columns is needed")
                yield where, record
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(path, error)) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error


def parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of a file."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", record
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as Parquet: {error}") from error


def saved_dataset(path: Path, split: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of a folder that `datasets` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} looks like a saved dataset and can't be loaded as one ({error}): name its data files, or save it with save_to_disk"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"{path} has no split {split!r}, it has {', '.join(map(str, loaded))}: set data.split")
        loaded = loaded[split]
    return ((f"{path}, row {number}", dict(record)) for number, record in enumerate(loaded, 1))  # type: ignore[arg-type]


def hub_dataset(name: str, split: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of a dataset of the model hub, as they arrive."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"there is no file or folder {name!r}{neighbours(Path(name))}, and the model hub gave no dataset of that "
            f"name: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    return ((f"{name}, row {number}", dict(record)) for number, record in enumerate(loaded, 1))


def not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    """What to say of a file that is no UTF-8."""
    return (
        f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x}, {error.reason}): save it as UTF-8, for instance "
        f"`iconv -f latin1 -t utf8 {path.name} > fixed{path.suffix}`"
    )


def neighbours(path: Path) -> str:
    """A file beside this one that may have been meant, in words."""
    folder = path.parent if os.path.isdir(path.parent) else None
    # By their stems too: endings that are the same make any two names alike.
    names = [p.name for p in folder.iterdir() if difflib.get_close_matches(path.stem, [p.stem])] if folder else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""
