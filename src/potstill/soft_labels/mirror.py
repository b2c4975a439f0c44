"""A store at a URL, such as s3://bucket/labels: whole files go there and come from there; what reads and writes them has a copy here.

An object store has neither locks nor memory to map. So labels are made and read in a folder, and a file is sent when it is whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from potstill.errors import StoreError
from potstill.soft_labels.manifest import MANIFEST, TABLES
from potstill.soft_labels.store import PLAN, SUFFIX, Store


def is_url(place: str) -> bool:
    """Whether a store is elsewhere: `s3://...`, and no folder of this machine."""
    return "://" in place


def copy_of(url: str) -> Path:
    """The folder in which this machine has its copy of the store at a URL: under XDG_CACHE_HOME, or ~/.cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "potstill" / "soft_labels" / hashlib.blake2b(url.rstrip("/").encode(), digest_size=12).hexdigest()


def store_at(place: str) -> Store:
    """The store in a folder, or at a URL: then what is not here yet is brought. StoreError where there is none."""
    if not is_url(place):
        return Store(Path(place).expanduser())
    mirror = Mirror(place)
    mirror.fetch()
    return Store(mirror.folder)


class Mirror:
    """The store at a URL, and its copy in `folder`."""

    def __init__(self, url: str) -> None:
        """StoreError for a URL that no file system is known for, or a package that its file system needs."""
        from fsspec.core import url_to_fs

        self.url, self.folder = url.rstrip("/"), copy_of(url)
        with self._explained():
            self._files, self._root = url_to_fs(self.url)
        self._sent: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Bring what is there and not here. A copy of another store, or of one that is gone, is cleared away first."""
        with self._explained(), self._alone():
            there = self._sizes()
            self._sent.clear()
            if MANIFEST not in there or self._is_of_another():
                for path in self.folder.iterdir():
                    path.unlink()
            for name, size in there.items():
                path = self.folder / name
                if name == PLAN or not path.exists() or path.stat().st_size != size:
                    self._bring(name, size)
                self._sent[name] = _state(path)

    def send(self) -> None:
        """Take there what is whole here and new since it was last sent or fetched; shards last, for they need the others."""
        with self._explained():
            shards = sorted(name for name in os.listdir(self.folder) if name.endswith(SUFFIX))
            # As they are written: without a manifest there is no store.
            for name in (TABLES, MANIFEST, PLAN, *shards):
                if not (self.folder / name).exists() or (state := _state(self.folder / name)) == self._sent.get(name):
                    continue
                # Under its name when it is whole: not every file system says so by itself.
                part = f"{self._root}/{name}.part"
                self._files.makedirs(self._root, exist_ok=True)
                self._files.put_file(str(self.folder / name), part)
                self._files.mv(part, f"{self._root}/{name}")
                self._sent[name] = state

    def _sizes(self) -> dict[str, int]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        sizes = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"] for entry in found}
        return {name: size for name, size in sizes.items() if _is_of_store(name)}

    def _is_of_another(self) -> bool:
        path = self.folder / MANIFEST
        return path.exists() and path.read_bytes() != self._files.cat_file(f"{self._root}/{MANIFEST}")

    def _bring(self, name: str, size: int) -> None:
        part = self.folder / f"{name}.part"
        self._files.get_file(f"{self._root}/{name}", str(part))
        if (found := part.stat().st_size) != size:
            raise StoreError(f"{self.url}/{name} has {size} bytes and {found} came: start again")
        part.replace(self.folder / name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Other processes that want the same copy wait, and then find it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.folder.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except _errors() as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise StoreError(
                f"the store at {self.url} can't be reached: {str(error) or type(error).__name__}. Look at the address, at what opens it "
                "(keys, rights), and whether fsspec's package for it is installed (s3fs for s3://)"
            ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What file systems raise: most say OSError, some have errors of their own."""
    own = [
        vars(sys.modules[module])[name]
        for module, name in (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"))
        if module in sys.modules
    ]
    return (OSError, ValueError, ImportError, *own)


def _is_of_store(name: str) -> bool:
    return name in (MANIFEST, TABLES, PLAN) or name.endswith(SUFFIX)


def _state(path: Path) -> tuple[int, int]:
    """What changes when the file does."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
