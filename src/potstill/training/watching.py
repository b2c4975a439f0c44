"""Steps that would do harm are left out: a loss or gradient that is no number, a gradient many times as long as those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from potstill.errors import NotFiniteError

# Steps from which the usual length is known; how fast it follows; steps left out in a row that end a run.
_KNOWN_AFTER, _FOLLOWS, _MOST_IN_A_ROW = 50, 0.05, 10


@dataclass
class Watch:
    """What is usual in a run. A checkpoint keeps it, so that a run that was killed leaves out the same steps.

    most     a gradient so many times as long as usual is left out; None: none is for its length
    usual    running mean of the lengths of gradients that were learned from
    seen     steps that were learned from
    skipped  steps left out; `in_a_row` of them without one between
    """

    most: float | None
    usual: float = 0.0
    seen: int = 0
    skipped: int = 0
    in_a_row: int = 0

    def judge(self, index: int, loss: float, norm: float, rate: float) -> str | None:
        """Why step `index` is left out, or None. NotFiniteError where a run can't begin, or has left out too many steps in a row."""
        found = self._found(loss, norm)
        if found is None:
            self.usual += (norm - self.usual) * max(_FOLLOWS, 1 / (self.seen + 1))
            self.seen, self.in_a_row = self.seen + 1, 0
            return None
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row < _MOST_IN_A_ROW and self.seen:
            return found
        others = "" if self.in_a_row == 1 else f", and neither can the {self.in_a_row - 1} before it"
        raise NotFiniteError(
            f"step {index} can't be learned from: {found}{others}. The student was not changed. Lower the learning rate (now "
            f"{rate:.2g}), lengthen the warm-up, or train in float32"
        )

    def _found(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if self.most is not None and self.seen >= _KNOWN_AFTER and norm > self.most * self.usual:
            return f"the gradient's norm is {norm:.3g}, usually {self.usual:.3g}"
        return None

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"usual": self.usual, "seen": self.seen, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, float]) -> None:
        """From a checkpoint. KeyError, TypeError or ValueError where it has none."""
        self.usual = float(state["usual"])
        self.seen, self.skipped, self.in_a_row = (int(state[name]) for name in ("seen", "skipped", "in_a_row"))
