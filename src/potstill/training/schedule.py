"""The learning rate over a run, as a factor of its peak. `warmup` and `floor` are shares in [0, 1]: of the steps, of the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """A factor of the peak learning rate for step `index` (from 0) of `steps`."""

    def factor(self, index: int, steps: int) -> float:
        """The factor, in [0, 1]."""
        ...


@dataclass(frozen=True)
class Constant:
    """Up in `warmup`, then level."""

    warmup: float = 0.0

    def factor(self, index: int, steps: int) -> float:
        """The factor, in [0, 1]."""
        return _rise(index, steps, self.warmup)


@dataclass(frozen=True)
class Linear:
    """Up in `warmup`, then straight down to `floor`."""

    warmup: float = 0.05
    floor: float = 0.0

    def factor(self, index: int, steps: int) -> float:
        """The factor, in [0, 1]."""
        left = 1 - _progress(index, steps, self.warmup)
        return _rise(index, steps, self.warmup) * (self.floor + (1 - self.floor) * left)


@dataclass(frozen=True)
class Cosine:
    """Up in `warmup`, then down to `floor` along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, no restarts)."""

    warmup: float = 0.05
    floor: float = 0.0

    def factor(self, index: int, steps: int) -> float:
        """The factor, in [0, 1]."""
        left = 0.5 * (1 + math.cos(math.pi * _progress(index, steps, self.warmup)))
        return _rise(index, steps, self.warmup) * (self.floor + (1 - self.floor) * left)


@dataclass(frozen=True)
class WarmupStableDecay:
    """Up in `rising` steps, level, and from step `decay_from` down to 0 as 1 - sqrt.

    Hu et al. 2024, arXiv:2404.06395; the form: Hägele et al. 2024, arXiv:2405.18392. Steps and not shares: what is learned while the rate
    is level is the same whatever the run's length, so that runs of several lengths share it.
    """

    rising: int
    decay_from: int | None = None

    def factor(self, index: int, steps: int) -> float:
        """The factor, in [0, 1]."""
        up = min(1.0, (index + 1) / self.rising) if self.rising else 1.0
        if self.decay_from is None or index < self.decay_from:
            return up
        return up * (1 - math.sqrt((index - self.decay_from + 1) / (steps - self.decay_from + 1)))


def _rise(index: int, steps: int, warmup: float) -> float:
    # The first step already learns: (index + 1), so that a warm-up of n steps has no wasted step at rate 0.
    rising = warmup * steps
    return min(1.0, (index + 1) / rising) if rising >= 1 else 1.0


def _progress(index: int, steps: int, warmup: float) -> float:
    rising = warmup * steps
    return min(1.0, max(0.0, (index - rising) / max(1.0, steps - rising)))
