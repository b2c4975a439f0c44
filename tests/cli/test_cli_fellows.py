"""A run of several processes says what went wrong once, whoever of them failed, and verbs of one process are refused in many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from potstill.cli.fellows import check_is_shared, is_first_to_fail
from potstill.errors import RecipeError

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from many_processes import DDP, begin

# The verb fails in the second process alone, while the first waits for it.
ONE_FAILS = """
import typer
from potstill.cli.app import _answering
from potstill.errors import NotFiniteError
from potstill.models import join_processes

def distill():
    processes = join_processes()
    if processes.process_index == 1:
        raise NotFiniteError("only here")
    processes.wait_for_everyone()
    processes.wait_for_everyone()

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(_answering(distill))
app([])
"""


def said_by(script: list[str]) -> tuple[list[int], str]:
    ranks = begin(2, script, DDP)
    said = ["".join(rank.communicate(timeout=180)) for rank in ranks]
    return [rank.returncode for rank in ranks], "".join(said)


def test_a_failure_of_one_is_said_once_and_ends_all():
    codes, said = said_by(["-c", ONE_FAILS])
    assert said.count("potstill: only here") == 1
    assert "Traceback" not in said
    assert codes == [1, 2]


@pytest.mark.slow
def test_a_mistake_that_all_find_is_said_once(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[teacher]\nmodle = 'pocket'\n")
    codes, said = said_by(["-m", "potstill", "distill", str(recipe)])
    assert codes == [2, 2]
    assert said.count("potstill: ") == 1
    assert "modle" in said


def test_what_is_one_processes_work_is_refused_in_many(monkeypatch: pytest.MonkeyPatch):
    check_is_shared("compress")
    assert is_first_to_fail()
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_is_shared("distill")
    with pytest.raises(RecipeError, match=r"`potstill compress` is one process's work, and 2 were begun for it"):
        check_is_shared("compress")
