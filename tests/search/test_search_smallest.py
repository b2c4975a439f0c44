"""The search finds the smallest that passes, and trains little besides it, on curves whose end is known."""

import math

import numpy as np
import pytest

from potstill.search import Judge, NoneFound, Point, Standing, Train, next_move, predict
from potstill.search.job import rungs_of
from potstill.search.smallest import Found, reach_of, standing

SHARES = (0.15, 0.22, 0.30, 0.40, 0.50, 0.60, 0.70, 0.85)
TOKENS = 1_000_000
LOOKS = rungs_of(2_000)


class World:
    """Candidates whose learning curves and ends are known; looks are noisy, as real ones are."""

    def __init__(self, seed: int, bar: float, noise: float = 0.003) -> None:
        self.generator = np.random.default_rng(seed)
        self.bar, self.noise = bar, noise
        self.ends, self.curves = {}, {}
        self.exponent = self.generator.uniform(0.3, 0.8)
        for level, share in enumerate(SHARES):
            for cut in ("width", "depth"):
                end = 1.0 - 0.35 * (1 - share) ** 1.5 - (0.01 if cut == "depth" else 0.0)
                self.ends[f"{cut}-{level}"] = end + self.generator.normal(0, 0.002)
                self.curves[f"{cut}-{level}"] = 0.03 + 0.06 * (1 - share)
        self.points = {name: [] for name in self.ends}
        self.judged = {}
        self.cost = 0.0

    def level(self, name: str) -> int:
        return int(name.rpartition("-")[2])

    def value(self, name: str, share: float) -> float:
        return self.ends[name] - self.curves[name] * (share**-self.exponent - 1)

    def train(self, name: str, rungs: int) -> None:
        before = self.points[name][-1].tokens / TOKENS if self.points[name] else 0.0
        for share in LOOKS[rungs - 1]:
            noisy = self.value(name, share) + self.generator.normal(0, self.noise)
            self.points[name].append(Point(int(share * TOKENS), noisy, 0.002))
            self.cost += 0.2 * share * SHARES[self.level(name)]
        self.cost += 0.8 * (LOOKS[rungs - 1][-1] - before) * SHARES[self.level(name)]

    def standings(self) -> list[Standing]:
        found = []
        for name, points in self.points.items():
            last = points[-1].tokens / TOKENS if points else 0.0
            rungs = sum(looks[-1] <= last + 1e-9 for looks in LOOKS)
            blank = Standing(name, name.partition("-")[0], self.level(name), rungs, judged=self.judged.get(name))
            others = {"bar": [curve for other, curve in self.points.items() if other != name]}
            found.append(standing(blank, {"bar": points}, {"bar": (self.bar, False)}, tokens=TOKENS, others=others))
        return found

    def search(self) -> tuple[str | None, int]:
        """(what was found, the smallest level that truly passes)."""
        for _ in range(100):
            match next_move(self.standings(), rungs=len(LOOKS), looks=3):
                case Train(names, rungs):
                    for name in names:
                        self.train(name, rungs)
                case Judge(name):
                    self.judged[name] = self.ends[name] >= self.bar
                case Found(name):
                    return name, self.smallest
                case NoneFound():
                    return None, self.smallest
        raise AssertionError("the search doesn't end")

    @property
    def smallest(self) -> int:
        passing = [self.level(name) for name, end in self.ends.items() if end >= self.bar]
        return min(passing, default=len(SHARES))


@pytest.mark.parametrize("bar", [0.80, 0.85, 0.90, 0.95])
def test_the_smallest_is_found_at_little_cost(bar: float) -> None:
    right, close, costs = 0, 0, []
    for seed in range(40):
        world = World(seed, bar)
        name, truth = world.search()
        level = len(SHARES) if name is None else world.level(name)
        right, close = right + (level == truth), close + (abs(level - truth) <= 1)
        assert name is None or world.ends[name] >= bar
        if name is not None:
            costs.append(world.cost / SHARES[world.level(name)])
    assert right >= 28
    assert close >= 38
    assert np.mean(costs) <= 3.0


def test_none_is_an_answer() -> None:
    """Where no size passes, the nearest has learned all it may."""
    world = World(0, bar=1.2)
    name, _ = world.search()
    assert name is None
    assert any(len(points) == 5 for points in world.points.values())


def test_a_failed_look_on_held_out_text_goes_one_level_up() -> None:
    both = [
        Standing("a", "width", 0, 4, 0.9, (1.0, 0.01), judged=False),
        Standing("b", "width", 1, 4, 0.9, (1.01, 0.01)),
    ]
    assert next_move(both, rungs=4, looks=3) == Judge("b", "it has learned all it may")
    assert next_move(both, rungs=4, looks=1) == NoneFound("a")  # no look is left for b


def test_predictions_hold_the_truth_as_often_as_they_say() -> None:
    """Between the tenth and the ninetieth percentile lies the end of at least 70 of 100 curves."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        end, rise, exponent = generator.uniform(0.8, 1.0), generator.uniform(0.01, 0.08), generator.uniform(0.05, 0.7)
        shares = (1 / 16, 1 / 8, 1 / 4)
        points = [
            Point(int(x * TOKENS), end - rise * (x**-exponent - 1) + generator.normal(0, 0.003), 0.001) for x in shares
        ]
        inside += 0.10 <= predict(points, TOKENS).chance_of(end) <= 0.90
    assert inside / 200 >= 0.7


def test_a_curve_that_falls_is_taken_as_level() -> None:
    found = predict([Point(100, 0.9, 0.001), Point(200, 0.8, 0.001)], 1600)
    assert math.isclose(found.mean, (0.9 + 2 * 0.8) / 3, abs_tol=1e-6)


def test_whichever_way_is_better_more_reach_is_better() -> None:
    """Bits per byte are better when there are fewer of them; without a target, more is better."""
    assert reach_of(0.9, 1.0, True) > reach_of(1.1, 1.0, True)
    assert reach_of(1.0, 1.0, True) == reach_of(1.0, 1.0, False) == 1.0
    assert reach_of(0.8, 0.0, False) > reach_of(0.5, 0.0, False)
    blank = Standing("a", "width", 0)
    points = {"bits": [Point(100, 1.4, 0.01), Point(200, 1.3, 0.01)]}
    found = standing(blank, points, {"bits": (1.0, True)}, tokens=400, others={})
    assert found.reaches is not None
    assert found.reaches[0] < 1.0


def test_what_passed_is_found_though_a_larger_one_missed() -> None:
    both = [
        Standing("a", "width", 0, 4, 0.9, (1.0, 0.01), judged=True),
        Standing("b", "width", 1, 4, 0.9, (1.01, 0.01), judged=False),
    ]
    assert next_move(both, rungs=4, looks=3) == Found("a")


def test_the_nearest_is_judged_before_it_is_told_of() -> None:
    one = [Standing("a", "width", 0, 4, 0.05, (0.9, 0.01))]
    assert isinstance(next_move(one, rungs=4, looks=3), Judge)
