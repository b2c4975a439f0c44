"""dtype = "auto": what was found when work began is what it goes on in."""

import sys
from pathlib import Path

import pytest
import torch

for room in ("models", "runs"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from tiny_job import tiny_llama  # noqa: E402

from potstill.models import precision  # noqa: E402
from potstill.recipe.number_format import dtype_of_run, hold_as_begun_  # noqa: E402
from potstill.runs import RunFolder  # noqa: E402

IDENTITY = {"text": "a"}


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch):
    """What the clock says from now on."""
    return lambda dtype: monkeypatch.setattr(precision, "_measured", lambda device: dtype)


def opened(path: Path) -> RunFolder:
    return RunFolder.open(path, "recipe", IDENTITY)


def test_a_run_goes_on_in_what_it_began_in(finds, tmp_path):
    said: list[str] = []
    finds(torch.bfloat16)
    assert dtype_of_run("auto", opened(tmp_path / "run"), said.append) == torch.bfloat16
    (tmp_path / "run" / "steps.jsonl").touch()
    finds(torch.float32)
    assert dtype_of_run("auto", opened(tmp_path / "run"), said.append) == torch.bfloat16
    assert said == ["going on in bfloat16, in which this run began (float32 is faster on this machine)"]
    assert dtype_of_run("float32", opened(tmp_path / "run"), said.append) == torch.float32


def test_a_run_that_did_nothing_yet_begins_anew(finds, tmp_path):
    finds(torch.bfloat16)
    dtype_of_run("auto", opened(tmp_path / "run"), print)
    finds(torch.float32)
    assert dtype_of_run("auto", opened(tmp_path / "run"), print) == torch.float32


def test_its_manifest_knows_where_the_file_is_gone(finds, tmp_path):
    finds(torch.bfloat16)
    folder = opened(tmp_path / "run")
    dtype_of_run("auto", folder, print)
    folder.write_json("manifest.json", {"run": {"dtype": "bfloat16"}})
    (folder.path / "steps.jsonl").touch()
    (folder.path / "dtype.json").unlink()
    finds(torch.float32)
    assert dtype_of_run("auto", opened(tmp_path / "run"), print) == torch.bfloat16
    assert folder.read_json("dtype.json") == {"dtype": "bfloat16"}


def test_weights_are_held_as_they_were(finds):
    model = tiny_llama()
    finds(torch.bfloat16)
    assert hold_as_begun_(model, "auto", None, rounds=True) == "float32"  # they would lose something
    assert hold_as_begun_(model, "bfloat16", None) == "float32"
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    assert hold_as_begun_(model, "auto", "float32") == "float32"
    assert hold_as_begun_(model, "auto", None) == "bfloat16"
    finds(torch.float32)
    assert hold_as_begun_(model, "auto", "bfloat16") == "bfloat16"
    assert hold_as_begun_(model, "float32", "bfloat16") == "float32"
    assert hold_as_begun_(model, "auto", "bfloat61") == "float32"  # a damaged file: as found here


def test_who_names_a_number_format_to_write_in_gets_it():
    assert hold_as_begun_(tiny_llama(), "bfloat16", None, rounds=True) == "bfloat16"
