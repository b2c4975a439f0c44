"""Which documents may be learned from, which choose between students, which only judge.

A document's part is decided by the hash of its key alone, so it never depends on the order of files, on what else is in
the corpus, or on the machine. The held-out part is the lowest band: changing the size of the others never moves it.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "search", "held_out"]


def place_of(key: str) -> float:
    """Where in [0, 1) the hash of a document's key falls: the same everywhere, and without order."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=b"potstill split").digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(key: str, *, held_out: float = 0.10, search: float = 0.05) -> Split:
    """The part of the corpus the document with this key belongs to; the shares are of documents, in [0, 1]."""
    place = place_of(key)
    if place < held_out:
        return "held_out"
    return "search" if place < held_out + search else "train"
