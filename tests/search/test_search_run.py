"""The whole search on a real, small teacher: what it leaves, that it goes on after a kill, and what a change does again."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_search
from transformers import AutoModelForCausalLM

from potstill.errors import DataError, RecipeError, RunDirectoryError
from potstill.recipe.searching import build_search, check_search
from potstill.reports.compression import write_compression
from potstill.search import Chosen, Climbing, Decided, Redone
from potstill.search.four_bits import in_four_bits

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return small_search.texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def done(source, tmp_path_factory) -> Path:
    """A finished search."""
    out = tmp_path_factory.mktemp("runs") / "small"
    small_search.run(build_search(small_search.recipe(source), out, say=lambda _: None))
    return out


def events(recipe, out) -> list[object]:
    return list(build_search(recipe, out, say=lambda _: None).run())


def test_what_it_leaves(done) -> None:
    """A student that loads without us, at least as good as its bar says, and verdicts that add up."""
    found = json.loads((done / "scores.json").read_text())
    student = AutoModelForCausalLM.from_pretrained(done / "student")
    chosen = next(one for one in found["candidates"] if one["name"] == found["chosen"])
    assert sum(weight.numel() for weight in student.parameters()) == chosen["sizes"]["model"]["total"]
    assert found["holds"] == all(verdict["holds"] for verdict in found["verdicts"])
    assert set(found["controls"]) == {"hard_labels", "untouched"}
    assert found["cost"]["multiple"] >= 1.0
    assert AutoModelForCausalLM.from_pretrained(done / "student-int4").config.quantization_config is not None
    if found["holds"]:  # no smaller one was seen to clear it
        smaller = [one for one in found["candidates"] if one["level"] < chosen["level"] and one["verdicts"]]
        assert not any(all(verdict["holds"] for verdict in one["verdicts"]) for one in smaller)


def test_the_page_is_made_of_files_alone(done, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    page = write_compression(copy).read_text()
    found = json.loads((copy / "scores.json").read_text())
    assert found["chosen"] in page
    assert "Word for word" in page
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert "https:" not in page
    card = (copy / "student" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: transformers" in card
    assert "model-index" in card
    assert "| **" in (copy / "report.md").read_text()
    for damage in ({"kind": "compress"}, {name: value for name, value in found.items() if name != "cost"}):
        (copy / "scores.json").write_text(json.dumps(damage))
        with pytest.raises(DataError, match=r"scores\.json has no '(teacher|cost)': run the search again"):
            write_compression(copy)


def test_half_a_rung_says_nothing_and_is_ended_first(done, source, tmp_path) -> None:
    """Where a search was killed within a move, it ends that move before it decides: else it would decide from what the other never saw."""
    out = tmp_path / "half"
    shutil.copytree(done, out)
    search = build_search(small_search.recipe(source), out, say=lambda _: None)
    first, second = search.steps(0, 0), search.steps(0, 1)
    climbed = [one.name for one in search.candidates if search.has_look(one.name, second)]
    name = climbed[0]
    for path in search.of(name).glob("look-*"):
        if path.name.partition(".")[0] != f"look-{first}":
            path.unlink()
    assert search.has_look(name, first)
    assert search.standings()[name].rungs == 0
    assert all(points == [] for points in search.points(name).values())
    search.folder.write_json("begun.json", {"bars": search.bars_in_words, "names": [name], "rungs": 1, "why": "begun"})
    said = [event.what for event in search.run() if isinstance(event, Decided)]
    assert said[0] == f"{name}: begun"
    assert search.has_look(name, second)
    assert not (out / "begun.json").exists()
    search.folder.write_json("begun.json", {"bars": "others", "names": [name], "rungs": 3, "why": "begun"})
    assert not any(isinstance(event, Climbing) for event in search.run())


def test_the_same_line_again_does_nothing(done, source) -> None:
    again = events(small_search.recipe(source), done)
    assert not any(isinstance(event, Climbing | Redone) for event in again)


def test_another_bar_trains_only_what_is_missing(done, source, tmp_path) -> None:
    """All that was trained is kept: the bar is no part of what a candidate is made from."""
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.glob("candidates/*/look-*.npz")}
    found = events(small_search.recipe(source, student={"bars": [{"least": 0.2}]}), copy)
    assert not [event for event in found if isinstance(event, Redone) and event.step != "student"]
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_another_rate_trains_again_and_keeps_the_labels(done, source, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    labels = {path: path.stat().st_mtime_ns for path in copy.glob("soft_labels/*.psl")}
    training = {"steps": 16, "length": 64, "rows": 2, "dtype": "float32", "learning_rate": 2e-3}
    redone = [
        event for event in events(small_search.recipe(source, training=training), copy) if isinstance(event, Redone)
    ]
    assert [event.step for event in redone if event.step != "student"] == ["candidates"]
    assert "learning_rate was 0.001, is 0.002" in redone[0].why or "training" in redone[0].why
    assert {path: path.stat().st_mtime_ns for path in copy.glob("soft_labels/*.psl")} == labels


def test_who_has_stopped_improving_has_learned_enough(source, tmp_path) -> None:
    """At a rate of almost nothing, half of the steps are enough to see it."""
    training = {"steps": 16, "length": 64, "rows": 2, "dtype": "float32", "learning_rate": 1e-9}
    student = {"until_flat": True, "bars": [{"least": 0.1}]}
    found = events(small_search.recipe(source, student=student, training=training), tmp_path / "run")
    assert isinstance(found[-1], Chosen)
    assert not list((tmp_path / "run").glob(f"candidates/{found[-1].candidate.name}/look-16.npz"))


def killed_until_done(out: Path, source: Path, kills: int, seed: int) -> int:
    """Start, kill at a random moment, start again; how often it was killed."""
    draws, done = random.Random(seed), 0
    while True:
        process = subprocess.Popen([sys.executable, str(HERE / "small_search.py"), str(out), str(source)])
        if done >= kills:
            assert process.wait(timeout=600) == 0
            return done
        time.sleep(draws.uniform(4.0, 14.0))
        if process.poll() is not None:
            assert process.returncode == 0
            return done
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1


@pytest.mark.slow
def test_kills_change_nothing(done, source, tmp_path) -> None:
    """30 kills at random moments, over as many searches as it takes; scores.json is that of the search nobody disturbed."""
    wanted, total, seed = json.loads((done / "scores.json").read_text()), 0, 0
    while total < 30:
        out = tmp_path / f"run-{seed}"
        total += killed_until_done(out, source, 30 - total, seed)
        assert json.loads((out / "scores.json").read_text()) == wanted
        seed += 1


def test_a_strange_folder_is_refused(source, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="not a search"):
        build_search(small_search.recipe(source), tmp_path, say=lambda _: None)


def test_a_recipe_with_a_student_is_refused(source, tmp_path) -> None:
    recipe = small_search.recipe(source)
    other = recipe.model_copy(update={"student": {"kind": "copy_layers", "layers": 2}})
    with pytest.raises((RecipeError, AttributeError)):
        build_search(other, tmp_path / "out", say=lambda _: None)


@pytest.mark.parametrize(
    ("table", "setting", "said"),
    [
        ("training", {"trackers": ["tensorboard"]}, "training.trackers"),
        ("training", {"schedule": {"kind": "linear", "warmup": 0.3}}, "training.schedule"),
        ("training", {"schedule": {"kind": "cosine", "warmup": 0.3}}, "training.schedule"),
        ("evaluation", {"untouched": False}, "evaluation.untouched"),
    ],
)
def test_what_a_search_would_ignore_is_refused(table, setting, said, tmp_path) -> None:
    given = {"training": {"steps": 16}, "evaluation": {"tokens": 3000}}
    recipe = small_search.recipe(tmp_path / "texts", **{table: given[table] | setting})
    with pytest.raises(RecipeError, match=f"no place for {said}"):
        check_search(recipe, tmp_path / "out")
    check_search(small_search.recipe(tmp_path / "texts"), tmp_path / "out")


def test_another_grid_of_four_bits_is_judged_and_packed_again(done, source, tmp_path, monkeypatch) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    name = json.loads((copy / "scores.json").read_text())["chosen"]
    monkeypatch.setattr("potstill.search.four_bits.GRID", 99)
    search = build_search(small_search.recipe(source), copy, say=lambda _: None)
    said = list(in_four_bits(search, name))
    assert list(copy.glob(f"candidates/{name}/int4-*-grid-99/rounded.npz"))
    assert [event.step for event in said if isinstance(event, Redone)] == ["int4"]
