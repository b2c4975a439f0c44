"""The grid of trainings: nested parts, equal but for their labels, and the same numbers after any interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_job import tiny_folder, tiny_job

from potstill.errors import DataError, RunDirectoryError
from potstill.runs import (
    ArmStep,
    Efficiency,
    Job,
    Measured,
    RunFolder,
    label_worth,
    learn_curves,
    parts_of,
    trainings_of,
)


def efficiency(job: Job | None = None, **changes: object) -> Efficiency:
    job = job or tiny_job()
    settings = {"sizes": 2, "factor": 3.0, "seeds": 2, "controls": ("argmax", "permuted")}
    return Efficiency(job, lambda seed: job.new_student(), lambda epoch: max(1, round(epoch)), **(settings | changes))  # type: ignore[arg-type]


def worth_of(wanted: Efficiency, folder: RunFolder) -> str:
    for _ in learn_curves(wanted, folder):
        pass
    return json.dumps(label_worth(wanted, folder).to_json())


def test_each_part_is_in_the_larger_ones_and_all_labels_share_it():
    wanted = efficiency(sizes=3, factor=2.0, seeds=3)
    parts = parts_of(wanted)
    for smaller, larger in ((0, 1), (1, 2)):
        for seed in range(3):
            assert set(parts[smaller][seed].documents) < set(parts[larger][seed].documents)
            assert parts[larger][seed].tokens == pytest.approx(2 * parts[smaller][seed].tokens, rel=0.3)
    whole = wanted.job.batches.corpus
    assert all(len(part.documents) == len(whole) for part in parts[2])
    assert set(parts[0][0].documents) != set(parts[0][1].documents)
    part = parts[0][1]
    assert part.batches.corpus.keys == tuple(whole.keys[d] for d in part.documents)
    assert part.tokens == int((part.batches.corpus.weights > 0).sum())
    assert part.steps == max(1, round(part.batches.steps_per_epoch))
    assert [p.steps for p in parts_of(replace(wanted, steps_of=lambda epoch: 7))[0]] == [7, 7, 7]
    fewer = parts_of(replace(wanted, largest=300))
    assert all(part.tokens <= 300 for part in fewer[-1])


def test_too_little_text_and_one_size_are_refused():
    with pytest.raises(DataError, match="don't make 9 parts"):
        parts_of(efficiency(sizes=9))
    with pytest.raises(DataError, match="two sizes"):
        parts_of(efficiency(sizes=1))


def test_controls_are_trained_at_the_largest_size_or_at_all():
    assert list(trainings_of(efficiency())) == [
        ("soft", 1), ("hard", 1), ("soft", 0), ("hard", 0), ("argmax", 1), ("permuted", 1),
    ]  # fmt: skip
    assert ("argmax", 0) in list(trainings_of(efficiency(everywhere=True)))


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path):
    """Killed in a training, after one, and between; the numbers are the same to the last digit."""
    wanted = efficiency()
    whole = worth_of(wanted, tiny_folder(tmp_path / "whole"))
    folder = tiny_folder(tmp_path / "killed")
    for after in (4, 1, 9):
        events = learn_curves(wanted, folder)
        seen = 0
        for event in events:
            seen += isinstance(event, ArmStep)
            if seen >= after:
                break
        events.close()  # type: ignore[attr-defined]
    assert worth_of(wanted, folder) == whole
    events = list(learn_curves(wanted, folder))
    assert {type(event) for event in events} == {Measured}
    assert len(events) == 1 + 2 * 6
    assert not list((tmp_path / "killed").rglob("checkpoints"))


def test_seeds_and_controls_can_come_later_but_no_other_sizes(tmp_path: Path):
    folder = tiny_folder(tmp_path)
    worth_of(efficiency(seeds=1, controls=()), folder)
    trained = {event.arm.name for event in learn_curves(efficiency(), folder) if isinstance(event, ArmStep)}
    assert "soft-size2-seed0" not in trained
    assert {"soft-size2-seed1", "argmax-size2-seed0"} <= trained
    with pytest.raises(RunDirectoryError, match="other sizes"):
        next(learn_curves(efficiency(factor=2.0), folder))


def test_the_worth_has_what_it_says(tmp_path: Path):
    wanted = efficiency(everywhere=True, controls=("argmax", "smoothed", "permuted"), seeds=1)
    folder = tiny_folder(tmp_path)
    found = json.loads(worth_of(wanted, folder))
    worth = label_worth(wanted, folder)
    assert list(found["curves"]) == ["soft", "hard", "argmax", "smoothed", "permuted"]
    assert all(len(rows["nats_per_token"]) == 2 for rows in found["curves"].values())
    assert set(found["multipliers"]) == {"soft", "argmax", "smoothed", "permuted"}
    best, knowledge = worth.knowledge()
    others = {labels: rows["nats_per_token"][-1].value for labels, rows in worth.curves.items() if labels != "soft"}
    assert best == min(others, key=lambda labels: others[labels])
    assert knowledge.value == pytest.approx(worth.curves["soft"]["nats_per_token"][-1].value - others[best])
    assert worth.held["gap_bits"].value == pytest.approx(
        worth.held["nll_bits"].value - worth.held["entropy_bits"].value
    )
    assert all(one.value > 0 and np.isfinite(one.value) for one in worth.equivalents)
    assert json.loads((tmp_path / "smoothing.json").read_text())["entropy"] > 0
