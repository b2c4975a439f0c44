"""`potstill plan`, as it is typed: here, on accelerators, on paper."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commands import Workshop
from rich.console import Console

from potstill.cli.planning import count, duration, print_plan_of, size, tokens_of
from potstill.errors import RecipeError
from potstill.planning import Accelerator, Fleet, ModelShape, Workload, plan_of
from potstill.recipe import load_recipe
from potstill.recipe.planning import build_workload
from potstill.recipe.trying import measure_here

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from small_search import recipe as searching
from small_search import texts


def planned(workshop: Workshop, *words: str) -> dict:
    result = workshop.run("plan", "recipe.toml", "--json", *words)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_here_by_a_few_real_steps(workshop: Workshop):
    found = planned(workshop, "--price", "2")
    assert found["workload"]["steps"] == 4
    assert found["fits"] is True
    assert found["seconds"] == pytest.approx(sum(one["seconds"] for one in found["phases"]))
    assert found["cost"] == pytest.approx(2 * found["seconds"] / 3_600)
    assert not (workshop.path / "runs").exists(), "a plan leaves nothing behind"


def test_on_accelerators_by_their_data_sheets(workshop: Workshop):
    one = planned(workshop, "--gpu", "a100", "--price", "2")
    two = planned(workshop, "--gpu", "a100", "--count", "2", "--mfu", "0.2", "--price", "2")
    assert two["device_hours"] == pytest.approx(2 * two["seconds"] / 3_600)
    assert two["cost"] == pytest.approx(2 * two["device_hours"])
    assert one["flops"] == two["flops"]
    text = workshop.run("plan", "recipe.toml", "--gpu", "a100").stdout
    assert "1 × a100" in text
    assert "assumed: matmuls reach 40% of 312 TFLOP/s" in text


def test_what_is_planned_is_what_the_run_does(workshop: Workshop):
    stored = load_recipe(Path("recipe.toml"), sets=["teacher.kind=stored", "training={epochs=2.0, length=24, rows=4}"])
    read = build_workload(stored, say=lambda _: None)
    tried, measured = measure_here(stored, say=lambda _: None)
    assert (tried.steps, tried.labelled, tried.held_out) == (read.steps, read.labelled, read.held_out)
    assert (tried.teacher, tried.student) == (read.teacher, read.student)
    assert measured.bytes_a_label is not None
    assert workshop.run("label", "recipe.toml").exit_code == 0
    labelled = build_workload(stored.model_copy(update={"name": "recipe"}), say=lambda _: None)
    assert (labelled.labelled, labelled.is_stored) == (0, True), "what is on disk is not labelled again"


def test_a_search_is_planned_as_well(tmp_path: Path):
    wanted = searching(texts(tmp_path / "texts"))
    read = build_workload(wanted, say=lambda _: None)
    tried, measured = measure_here(wanted, say=lambda _: None)
    assert (tried.kind, tried.steps, tried.chosen_by) == ("compress", read.steps, read.chosen_by)
    assert plan_of(tried, measured).seconds > 0


def test_shapes_are_enough_where_nothing_is_measured(workshop: Workshop):
    folder = workshop.path / "of_shape"
    folder.mkdir()
    (folder / "config.json").write_bytes((workshop.path / "teacher" / "config.json").read_bytes())
    paper = ("--gpu", "h100", "--text", "1B", "--set", f"teacher.model={folder}")
    rows = "training={epochs=1.0, length=24, rows=8}"
    found = planned(workshop, *paper, "--set", rows, "--count", "8")
    assert (found["fits"], found["configuration"]) == (True, "ddp")


def test_a_text_on_paper_is_not_read(workshop: Workshop):
    (workshop.path / "text.jsonl").unlink()
    found = planned(workshop, "--gpu", "h100", "--text", "1B", "--set", "training={epochs=1.0, length=24, rows=4}")
    assert found["workload"]["text"] == 10**9
    assert found["workload"]["steps"] == pytest.approx(0.65e9 / (24 * 4), rel=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "h1000"], "did you mean h100"),
        (["--count", "8"], "add --gpu h100"),
        (["--gpu", "h100", "--count", "8"], "--set training.rows=8"),
        (["--gpu", "h100", "--mfu", "40"], "--mfu is a share"),
        (["--gpu", "h100", "--text", "many"], "as 500k, 5M, 10B or 1T, to a million T, found 'many'"),
    ],
)
def test_mistakes_are_explained(workshop: Workshop, words: list[str], said: str):
    assert said in workshop.refused("plan", "recipe.toml", *words)


def test_labels_that_can_not_be_stored_are_not_planned(workshop: Workshop):
    sets = ("--set", "teacher.kind=stored", "--set", "loss.hidden={weight=1.0}")
    assert "stored labels have no hidden states" in workshop.refused("plan", "recipe.toml", "--gpu", "h100", *sets)


@pytest.mark.parametrize("setting", ["training.rwos=2", "training.length=999999", "teacher.model=nowhere"])
def test_a_wrong_recipe_is_refused_as_the_run_would(workshop: Workshop, setting: str):
    said = workshop.refused("plan", "recipe.toml", "--gpu", "h100", "--set", setting)
    assert said == workshop.refused("distill", "recipe.toml", "--set", setting)


def test_what_does_not_fit_says_by_how_much_and_what_to_do(capsys: pytest.CaptureFixture[str]):
    shape = ModelShape(10**9, 9 * 10**8, 10**8, 50_000, 2_048, 8_192, 24, 2_048, 8_192, 4 * 10**7, 9 * 10**8)
    work = Workload("distill", shape, shape, steps=10, rows=8, length=512)
    small = Fleet(Accelerator("small", flops=1e14, memory=8e9, bandwidth=1e11, link=1e10, network=1e9))
    print_plan_of("it", work, small, plan_of(work, small), ["the gate"], Console(width=160))
    said = capsys.readouterr().out
    assert "doesn't fit" in said
    assert "too few" in said
    assert "A smaller teacher or student" in said, "they have to be measured whole"
    assert "left out: the gate" in said


def test_numbers_as_people_read_them():
    assert [count(number) for number in (12.0, 1_234.0, 7e10, 1e12)] == ["12", "1.23 k", "70 B", "1 T"]
    assert [size(number) for number in (12.0, 1.5e6, 7.6e15)] == ["12 B", "1.5 MB", "7.6 PB"]
    assert [duration(seconds) for seconds in (0.5, 100.0, 7_200.0, 864_000.0)] == [
        "0.5 s",
        "1.7 min",
        "2.0 h",
        "10.0 days",
    ]
    assert [tokens_of(text) for text in ("500k", "1.5B", "2T", "1_000")] == [500_000, 1_500_000_000, 2 * 10**12, 1_000]
    assert [count(number) for number in (999_997_440, 999_400_000)] == ["1 B", "999 M"]
    assert size(999_999.0) == "1 MB"
    for text in ("0", "1.5", "9" * 400, "99999999999999999999999999T"):
        with pytest.raises(RecipeError, match="a whole number of tokens"):
            tokens_of(text)
