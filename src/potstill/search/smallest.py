"""What to do next, so that the smallest student that clears the bar is found without training them all.

Larger students keep more, so what is looked for is a boundary. It is bracketed by halves: a few levels of the ladder learn for a short
while (Jamieson and Talwalkar 2016, arXiv:1502.07943: successive halving). The smallest level that is likelier than not to clear the bar
learns on, rung by rung, and is judged on text that no choice was made on; its whole learning curve tells where those of the levels below
are going, and they learn on only as long as they may still clear the bar. Levels that are out take all smaller ones with them.

Everything is decided from what was measured, so a search that was killed decides the same again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from potstill.search.curves import Point, predict, weights_of_exponents

# Below this chance of clearing the bar a candidate is out; from this one on it is likelier than not, and sure enough not to look twice.
OUT, _LIKELY, _SURE = 0.15, 0.50, 0.90
# One that has learned all it may is judged from this chance on.
_WORTH_JUDGING = 0.30
# Two cuts of one level that are this close after the first rung (as a share of the bar) both climb the second; then one is left.
_TIE, _TIED_RUNGS = 0.005, 1
# One that is so much ahead makes the other unlikely at the neighbouring levels as well.
_CLEAR = 0.03


@dataclass(frozen=True)
class Standing:
    """A candidate as far as it has come.

    cut     how it is cut
    level   of the ladder, from 0, the smallest
    rungs   how many rungs it has climbed
    chance  of clearing all bars when it has learned all it may; None before the first rung
    reaches the predicted value of the bar it is least sure to clear, as a share of that bar, and its standard deviation
    judged  whether it cleared the bars on held-out text; None before
    """

    name: str
    cut: str
    level: int
    rungs: int = 0
    chance: float | None = None
    reaches: tuple[float, float] | None = None
    judged: bool | None = None


@dataclass(frozen=True)
class Train:
    """These learn until they have climbed so many rungs."""

    names: tuple[str, ...]
    rungs: int
    why: str


@dataclass(frozen=True)
class Judge:
    """This one has learned all it may: is it good enough on held-out text?"""

    name: str
    why: str


@dataclass(frozen=True)
class Found:
    """The smallest that clears the bars."""

    name: str


@dataclass(frozen=True)
class NoneFound:
    """No level is left. `nearest` came closest, and has learned all it may."""

    nearest: str


Move = Train | Judge | Found | NoneFound


def next_move(standings: Sequence[Standing], *, rungs: int, looks: int) -> Move:
    """What to do next. `rungs` is how many there are, `looks` how many candidates may be judged on held-out text."""
    levels = sorted({one.level for one in standings})
    at = [_of_leading_cut([one for one in standings if one.level == level], standings) for level in levels]
    judged = [one for one in standings if one.judged is not None]
    passed = min((one for one in judged if one.judged), key=lambda one: one.level, default=None)
    out = max((place for place, level in enumerate(at) if _is_out(level, rungs)), default=-1)
    alive = range(out + 1, len(levels))
    likely = min((place for place in alive if _chance(at[place]) >= _LIKELY), default=len(levels))
    if passed is not None:
        likely = min(likely, levels.index(passed.level))
    below = max((place for place in range(likely) if _is_known(at[place])), default=out)
    # A size above one that passed may have missed: it is noise, and says nothing of smaller ones.
    is_lowest = passed is not None and levels.index(passed.level) <= out + 1
    if len(judged) >= looks or is_lowest:
        return Found(passed.name) if passed is not None else _none_found(standings, rungs, looks)
    if (unknown := range(max(below, out) + 1, likely)) and not any(_is_known(at[place]) for place in unknown):
        place = _between(unknown, at, below, likely)
        return Train((at[place][0].name,), 1, "is the bar above or below this size?")
    if likely == len(levels):
        if out + 1 == len(levels):
            return _none_found(standings, rungs, looks)
        return _go_on(at[-1], rungs, "the largest has not been seen to miss the bar")
    if passed is not None and passed in at[likely]:
        return _go_on(at[likely - 1], rungs, "a size smaller than the one that passed may pass as well")
    return _go_on(at[likely], rungs, "the smallest size that is likelier than not to pass")


def _go_on(level: Sequence[Standing], rungs: int, why: str) -> Move:
    """The best of a level learns on; is judged, when it has learned all it may."""
    best = _leading(level, rungs)
    first = max(best, key=_reach)
    if first.rungs <= 1 and (others := tuple(one.name for one in level if one.chance is None)):
        return Train(others, 1, "another cut of this size may be better")
    if first.rungs == rungs:
        return Judge(first.name, "it has learned all it may")
    climbed = min(one.rungs for one in best)
    is_sure = first.chance is not None and first.chance >= _SURE and climbed >= rungs - 2
    return Train(tuple(one.name for one in best if one.rungs == climbed), rungs if is_sure else climbed + 1, why)


def _between(unknown: range, at: Sequence[Sequence[Standing]], below: int, above: int) -> int:
    """Where the bar is crossed, going straight from what is known below to what is known above; the middle where nothing is known."""
    middle = unknown[(len(unknown) - 1) // 2]
    if not (0 <= below < above < len(at)):
        return middle
    low, high = (max(_reach(one) for one in at[place]) for place in (below, above))
    if not low < 1.0 < high:
        return middle
    crossing = below + (1.0 - low) / (high - low) * (above - below)
    return min(max(math.ceil(crossing), unknown[0]), unknown[-1])


def _of_leading_cut(level: Sequence[Standing], standings: Sequence[Standing]) -> Sequence[Standing]:
    """Where two cuts were compared at this level or a neighbouring one, only the better of them is tried here."""
    known = [one for one in standings if one.reaches is not None and abs(one.level - level[0].level) <= 1]
    pairs = [(a, b) for a in known for b in known if a.level == b.level and a.cut != b.cut]
    better = {a.cut for a, b in pairs if _reach(a) >= _reach(b) + _CLEAR}
    return [one for one in level if not better or one.cut in better or one.chance is not None] or level


def _chance(level: Sequence[Standing]) -> float:
    return max((1.0 if one.judged else one.chance for one in level if one.chance is not None), default=-1.0)


def standing(
    one: Standing,
    curves: Mapping[str, Sequence[Point]],
    targets: Mapping[str, tuple[float, bool]],
    *,
    tokens: int,
    others: Mapping[str, Sequence[Sequence[Point]]],
) -> Standing:
    """Where a candidate stands, from its learning curve by bar, (target, whether less is better) by bar, and the others' curves by bar."""
    if not any(curves.values()):
        return one
    chances, reached = [], []
    for bar, points in curves.items():
        target, less_is_better = targets[bar]
        sign = -1.0 if less_is_better else 1.0
        upright = [
            [Point(p.tokens, sign * p.value, p.error) for p in curve] for curve in (points, *others.get(bar, ()))
        ]
        found = predict(upright[0], tokens, weights_of_exponents(upright[1:], tokens))
        chances.append(found.chance_of(sign * target))
        reached.append((reach_of(sign * found.mean, target, less_is_better), found.error / abs(target or 1.0)))
    weakest = min(range(len(chances)), key=lambda place: chances[place])
    return replace(one, chance=chances[weakest], reaches=reached[weakest])


def reach_of(value: float, target: float, less_is_better: bool) -> float:
    """How far a value is on the way to a target: 1 is there, more is beyond."""
    if target == 0:
        return value
    return target / max(value, 1e-9) if less_is_better else value / target


def _is_known(standings: Sequence[Standing]) -> bool:
    return any(one.chance is not None for one in standings)


def _is_out(standings: Sequence[Standing], rungs: int) -> bool:
    """Whether none of a level is worth going on with."""
    return all(_is_alone_out(one, rungs) for one in standings)


def _is_alone_out(one: Standing, rungs: int) -> bool:
    if one.judged is not None:
        return not one.judged
    if one.chance is None:
        return False
    return one.chance < (_WORTH_JUDGING if one.rungs == rungs else OUT)


def _leading(standings: Sequence[Standing], rungs: int) -> list[Standing]:
    """Those of a level that go on: all but the clearly weaker."""
    alive = [one for one in standings if not _is_alone_out(one, rungs)]
    known = [one for one in alive if one.reaches is not None]
    if not known:
        return alive
    first = max(known, key=_reach)
    close = [one for one in known if _reach(first) - _reach(one) < _TIE]
    return close if max(one.rungs for one in known) <= _TIED_RUNGS else [first]


def _reach(one: Standing) -> float:
    return -1.0 if one.reaches is None else one.reaches[0]


def _none_found(standings: Sequence[Standing], rungs: int, looks: int) -> Move:
    """The most promising learns on to the end and is judged, where a look is left, so that what is told of it was measured."""
    judged = [one for one in standings if one.judged is not None]
    if len(judged) >= looks:
        return NoneFound(max(judged, key=lambda one: (_reach(one), one.level)).name)
    finished = [one for one in standings if one.rungs == rungs]
    nearest = max(finished or standings, key=lambda one: (_reach(one), one.level))
    if nearest.rungs < rungs:
        return Train((nearest.name,), nearest.rungs + 1, "none clears the bar; the nearest learns all it may")
    if nearest.judged is None:
        return Judge(nearest.name, "none is likely to clear the bar; this is the nearest")
    return NoneFound(nearest.name)
