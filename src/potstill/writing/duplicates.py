"""Texts that were there before: equal, or sharing most of their runs of words."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.data import plain

_BUCKETS = 1 << 22
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Duplicates:
    """What counts as the same: equal in lower case and single spaces, or at least so similar.

    similar  the Jaccard similarity of the sets of runs of words from which on texts are the same; None: equal ones alone
    words    in a run
    whole    prompt and completion are compared, not the completion alone
    """

    similar: float | None = None
    words: int = 5
    whole: bool = False


class Known:
    """The texts so far. Exact: no pair as similar as asked for is missed, and none is refused that isn't.

    A pair with Jaccard similarity t shares one of the first |x| - ⌈t·|x|⌉ + 1 runs of each, in any order that is the same for all
    (prefix filter, Chaudhuri et al. 2006). The rarest go first, so that few texts meet there.
    """

    def __init__(self, settings: Duplicates, expected: Iterable[str]) -> None:
        """`expected`: the texts that will come, from which it is counted how rare a run is."""
        self.settings = settings
        self._plain: set[bytes] = set()
        self._sets: list[NDArray[np.uint64]] = []
        self._of_run: dict[int, list[int]] = {}
        self._counts = np.zeros(_BUCKETS, dtype=np.uint32)
        if settings.similar is not None:
            for text in expected:
                self._counts[self._runs(text) % _BUCKETS] += 1

    def has(self, text: str) -> bool:
        """Whether the text, or one as similar as asked for, was added."""
        if _digest(text) in self._plain:
            return True
        if self.settings.similar is None:
            return False
        runs = self._runs(text)
        candidates = {place for run in self._prefix(runs) for place in self._of_run.get(run, ())}
        return any(_jaccard(runs, self._sets[place]) >= self.settings.similar for place in sorted(candidates))

    def add(self, text: str) -> None:
        """From now on, it is known."""
        self._plain.add(_digest(text))
        if self.settings.similar is not None:
            runs = self._runs(text)
            for run in self._prefix(runs):
                self._of_run.setdefault(run, []).append(len(self._sets))
            self._sets.append(runs)

    def _runs(self, text: str) -> NDArray[np.uint64]:
        """Hashes of the runs, each once; a text of fewer words is one run."""
        words = _WORD.findall(plain(text))
        size = self.settings.words
        runs = {" ".join(words[at : at + size]) for at in range(max(1, len(words) - size + 1))}
        hashes = [int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little") for run in runs]
        return np.unique(np.array(hashes, dtype=np.uint64))

    def _prefix(self, runs: NDArray[np.uint64]) -> list[int]:
        assert self.settings.similar is not None
        rarest_first = runs[np.lexsort((runs, self._counts[runs % _BUCKETS]))]
        # A little less than t·n: 0.7 · 10 is 7.000000000000001 in floating point.
        return rarest_first[: len(runs) - math.ceil(self.settings.similar * len(runs) - 1e-9) + 1].tolist()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(plain(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
