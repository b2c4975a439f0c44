"""What a search will take, before it starts: time, disk, memory; and how much a student can read in a given time."""

from __future__ import annotations

from dataclasses import dataclass

from potstill.errors import RecipeError
from potstill.models import head_of, size_of
from potstill.runs import memory_of
from potstill.search.compression import Search
from potstill.search.timing import Rates, half_of
from potstill.soft_labels import size_of_label

# All that the search trains besides the chosen student, as shares of its own training, with one cut a size and with more, and how often it
# looks at a student: measured in benchmarks/search.md.
_BESIDES, _BESIDES_OF_MORE = 1.2, 2.3
LOOKS = 12
_STATE = 12  # bytes a parameter of a checkpoint: weights and two moments


@dataclass(frozen=True)
class Plan:
    """tokens a student reads; seconds, bytes of disk and of memory that all of it takes, roughly."""

    tokens: int
    seconds: float
    disk: float
    memory: float


def share_besides(cuts: int) -> float:
    """What is trained besides the chosen student, as a share of its own training, with so many cuts a size."""
    return _BESIDES if cuts == 1 else _BESIDES_OF_MORE


def plan_of(search: Search, rates: Rates) -> Plan:
    """For a student of half the teacher's size, whatever the limits."""
    job, tokens = search.job, search.tokens
    student = half_of(job.teacher.model)
    memory = memory_of(
        job.teacher.model,
        student,
        micro_rows=job.settings.micro_rows or job.batches.rows,
        length=job.length,
        dtype=job.settings.dtype,
    )
    parameters, kept = size_of(student).total, 5 + 3 * (len(job.ladder.cuts) - 1)
    head = head_of(job.teacher.model)
    of_label = size_of_label(job.manifest.codec, width=head.weight.shape[1], vocabulary=head.num_tokens)
    disk = of_label * job.texts.learn.num_tokens + kept * (2 * _STATE + 4) * parameters
    return Plan(tokens, _seconds(search, rates, tokens), float(disk), float(sum(memory.values())))


def tokens_in(search: Search, rates: Rates, seconds: float) -> int:
    """How much a student may read, for all to be done by then: at most what the recipe says. RecipeError where there is no time for any."""
    job = search.job
    step = job.batches.rows * job.length
    shortest = _seconds(search, rates, step)
    if shortest >= seconds:
        raise RecipeError(
            f"looking at students alone takes about {shortest / 60:.1f} minutes here: give it more, or lower evaluation.tokens"
        )
    low, high = 1, max(2, search.tokens // step)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _seconds(search, rates, middle * step) <= seconds else (low, middle - 1)
    return low * step


def _seconds(search: Search, rates: Rates, tokens: int) -> float:
    job = search.job
    besides = share_besides(len(job.ladder.cuts))
    marked = min(tokens, job.texts.learn.num_tokens) / rates.marked
    learned = tokens * (1 + besides + job.control) / rates.learned
    read = (LOOKS * job.texts.search.num_tokens + (job.looks + 4) * job.texts.held_out.num_tokens) / rates.read
    asked = sum(LOOKS * len(one.items) + (job.looks + 4) * len(other.items) for one, other in job.questions.values())
    return marked + learned + read + asked * rates.seconds_a_question
