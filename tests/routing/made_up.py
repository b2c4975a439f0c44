"""Pairs of models made up: queries of a difficulty, of which the student knows something."""

import numpy as np

from potstill.routing import Signals
from potstill.routing.queries import Scored


def drawn(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences, the student's scores, the teacher's."""
    difficulty = random.normal(size=n)
    ours, theirs = (1 / (1 + np.exp(-(at - slope * difficulty))) for at, slope in ((2.2, 1.6), (3.2, 1.5)))
    student, teacher = (random.random(n) < ours).astype(float), (random.random(n) < theirs).astype(float)
    return np.clip(ours + 0.12 * random.normal(size=n), 1e-6, 1), student, teacher


def scored(n: int, seed: int = 0) -> Scored:
    """The same as queries that were answered: two domains, a signal that tells and one that doesn't."""
    random = np.random.default_rng(seed)
    confidences, student, teacher = drawn(n, random)
    noise = random.random(n)
    signals = tuple(
        Signals(mean_logprob=float(np.log(one)), entropy=float(other))
        for one, other in zip(confidences, noise, strict=True)
    )
    prompts = tuple(f"query {number} of {n}" for number in range(n))
    domains = tuple("even" if number % 2 == 0 else "odd" for number in range(n))
    return Scored(student, teacher, signals, domains, prompts, True, 5, "made up")
