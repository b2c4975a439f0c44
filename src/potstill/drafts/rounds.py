"""What was drafted and accepted, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Rounds:
    """Of one or several texts: (drafted, accepted) of each round, in the words of vLLM."""

    each: tuple[tuple[int, int], ...]

    @classmethod
    def joined(cls, some: Sequence[Rounds]) -> Rounds:
        """All rounds of several texts."""
        return cls(tuple(one for rounds in some for one in rounds.each))

    @property
    def drafted(self) -> int:
        """Tokens that the student wrote."""
        return sum(drafted for drafted, _ in self.each)

    @property
    def accepted(self) -> int:
        """Those of them that the teacher took."""
        return sum(accepted for _, accepted in self.each)

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a round, the teacher's own included."""
        return 1 + self.accepted / max(len(self.each), 1)

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted / drafted; 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def by_position(self) -> tuple[float, ...]:
        """Of the rounds that drafted a token in place 1, 2, ...: the share in which it was accepted."""
        longest = max((drafted for drafted, _ in self.each), default=0)
        tried = [sum(drafted > place for drafted, _ in self.each) for place in range(longest)]
        kept = [sum(accepted > place for _, accepted in self.each) for place in range(longest)]
        return tuple(some / all_ for some, all_ in zip(kept, tried, strict=True))

    @property
    def conditional(self) -> tuple[float, ...]:
        """The same among the rounds whose drafts before it were accepted."""
        found = (1.0, *self.by_position)
        return tuple(here / before if before else 0.0 for before, here in pairwise(found))
