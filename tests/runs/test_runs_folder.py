"""A run's folder belongs to one run."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_job import IDENTITY, LENGTH, RECIPE, tiny_folder, tiny_llama
from tiny_models import byte_tokenizer

from potstill.data import Document, Part, tokenize
from potstill.errors import MissingExtraError, RunDirectoryError
from potstill.models import size_of
from potstill.runs import (
    RunFolder,
    check_trackers,
    estimate,
    fingerprint_of_model,
    fingerprint_of_tokenizer,
    held_out_sample,
    manifest,
)


def test_a_folder_is_taken_up_by_its_own_run(tmp_path):
    first = tiny_folder(tmp_path / "run")
    first.write_json("fact.json", {"a": 1})
    assert tiny_folder(tmp_path / "run").read_json("fact.json") == {"a": 1}
    first.keep_json("kept.json", {"a": 12, "of": (1.5, "ä", None), "n": {}})
    kept = tmp_path / "run" / "kept.json"
    assert first.read_json("kept.json") == {"a": 12, "of": [1.5, "ä", None], "n": {}}
    for said in (kept.read_text().replace("12", "13"), "[1]"):
        kept.write_text(said)
        with pytest.raises(RunDirectoryError, match="delete it and run again"):
            first.read_json("kept.json")


@pytest.mark.parametrize("said", ["{}", '{"steps": null}', '{"steps": []}', '{"steps": "many"}'])
def test_a_file_that_lacks_what_is_asked_of_it_is_named(said, tmp_path):
    folder = tiny_folder(tmp_path / "run")
    folder.write_text("kept.json", said)
    with pytest.raises(RunDirectoryError, match=r"kept.json can't be read \(.+\): delete it and run again"):
        folder.read_as("kept.json", lambda found: int(found["steps"]))
    folder.write_json("kept.json", {"steps": 3})
    assert folder.read_as("kept.json", lambda found: int(found["steps"])) == 3


def test_speeds_that_are_none_are_named(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    folder.write_json("speeds.json", {"teacher": {"prefill_tokens_per_second": 2.0}, "distilled": {}})
    with pytest.raises(RunDirectoryError, match=r"speeds\.json can't be read"):
        folder.speeds()


def test_what_was_only_prepared_makes_way_for_another_recipe(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    folder.write_json("dtype.json", {"dtype": "bfloat16"})
    (folder.path / "tokens").mkdir()
    RunFolder.open(tmp_path / "run", "another = true\n", IDENTITY)
    assert (folder.path / "recipe.toml").read_text() == "another = true\n"
    assert not (folder.path / "dtype.json").exists()
    assert not (folder.path / "tokens").exists()


def test_what_was_only_prepared_is_prepared_again(tmp_path):
    """The text may have been mended meanwhile without a change of its size, and four_bits.json be of a recipe that had them."""
    folder = tiny_folder(tmp_path / "run")
    (folder.path / "tokens").mkdir()
    folder.write_json("four_bits.json", {"group": 16})
    tiny_folder(tmp_path / "run")
    assert not (folder.path / "tokens").exists()
    assert not (folder.path / "four_bits.json").exists()


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    folder.leave()
    assert not folder.path.exists()
    folder = tiny_folder(tmp_path / "run")
    folder.write_text("importance.safetensors", "scores")
    folder.leave()
    assert (folder.path / "recipe.toml").exists()


def test_a_refused_run_leaves_what_is_not_its_own(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    (tmp_path / "labels").mkdir()
    (folder.path / "soft_labels").symlink_to(tmp_path / "labels")
    folder.leave()
    assert (folder.path / "soft_labels").is_symlink()


def begun_folder(path: Path) -> RunFolder:
    """A folder with a first result in it."""
    folder = tiny_folder(path)
    (folder.path / "measurements").mkdir()
    return folder


def test_what_killed_processes_left_is_swept_up(tmp_path):
    folder = begun_folder(tmp_path / "run")
    (folder.path / ".student-x1").mkdir()
    (folder.path / "controls" / "hard_labels" / ".student-x2").mkdir(parents=True)
    (folder.path / ".recipe.toml.part-77").write_text("torn")
    tiny_folder(tmp_path / "run")
    assert not [*folder.path.rglob(".student-*"), *folder.path.rglob(".*.part-*")]


def test_another_recipe_is_refused_with_the_line_that_differs(tmp_path):
    begun_folder(tmp_path / "run")
    with pytest.raises(
        RunDirectoryError, match=r"belongs to another run: its recipe says `steps = 6`, this one `steps = 7`"
    ):
        RunFolder.open(tmp_path / "run", RECIPE.replace("6", "7"), IDENTITY)
    with pytest.raises(RunDirectoryError, match="this one `more = 1`"):
        RunFolder.open(tmp_path / "run", RECIPE + "more = 1\n", IDENTITY)


def test_another_model_of_the_same_name_is_refused(tmp_path):
    begun_folder(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="begun with another teacher of the same name"):
        RunFolder.open(tmp_path / "run", RECIPE, IDENTITY | {"teacher": "changed"})


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"not a potstill run \(thesis.tex\)"):
        tiny_folder(tmp_path)
    with pytest.raises(RunDirectoryError, match="is a file"):
        tiny_folder(tmp_path / "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_killed_while_it_was_begun_is_begun_again(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    (folder.path / "recipe.toml").unlink()
    assert (tiny_folder(tmp_path / "run").path / "recipe.toml").read_text() == RECIPE


def test_two_processes_do_not_write_one_run(tmp_path):
    holding = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "run").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", holding, tmp_path / "run" / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError, match="another process is writing the run"):
            tiny_folder(tmp_path / "run")
        assert other.stdin is not None
        other.stdin.close()
    tiny_folder(tmp_path / "run")


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path / "run")
    folder.write_json("fact.json", {"a": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            folder.write_json("fact.json", {"a": 2})
    assert folder.read_json("fact.json") == {"a": 1}
    assert not list(folder.path.glob(".*part*"))


def test_a_step_cut_off_by_a_kill_is_left_out(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    (folder.path / "steps.jsonl").write_text('{"index": 1}\n{"index": 2}\n{"ind')
    assert folder.steps("distilled") == [{"index": 1}, {"index": 2}]
    with folder.logging_steps("distilled", done=1) as log:
        log.write('{"index": 2, "again": true}\n')
    assert folder.steps("distilled") == [{"index": 1}, {"index": 2, "again": True}]


@pytest.mark.parametrize("damage", ["7", "{}", '{"index": null}'])
def test_a_line_that_is_no_step_ends_the_steps(damage, tmp_path):
    folder = tiny_folder(tmp_path / "run")
    (folder.path / "steps.jsonl").write_text(f'{{"index": 1}}\n{damage}\n{{"index": 3}}\n')
    assert folder.steps("distilled") == [{"index": 1}]


def test_fingerprints_see_a_training_step_and_nothing_else():
    assert fingerprint_of_model(tiny_llama()) == fingerprint_of_model(tiny_llama())
    moved = tiny_llama()
    with torch.no_grad():
        moved.model.layers[2].mlp.down_proj.weight.mul_(1.0001)
    assert fingerprint_of_model(moved) != fingerprint_of_model(tiny_llama())
    assert fingerprint_of_model(tiny_llama().bfloat16()) != fingerprint_of_model(tiny_llama())
    assert fingerprint_of_tokenizer(byte_tokenizer()) == fingerprint_of_tokenizer(byte_tokenizer())
    assert fingerprint_of_tokenizer(byte_tokenizer()) != fingerprint_of_tokenizer(byte_tokenizer(extra=("<x>",)))


def test_the_manifest_names_versions_and_machine():
    found = manifest({"run": {"steps": 3}})
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["cores"] > 0
    assert found["run"] == {"steps": 3}


@pytest.mark.parametrize(("tokens", "cut_to"), [(10_000, None), (500, 120), (300, 48), (200, 24), (60, 24)])
def test_held_out_text_is_many_documents_rather_than_long_ones(tokens, cut_to):
    texts = ["x" * size for size in (10, 20, 100, 200, 30, 90, 150, 5)]
    documents = [Document(f"key {n}", (Part(text, True),)) for n, text in enumerate(texts)]
    corpus = tokenize(documents, byte_tokenizer())
    sample = held_out_sample(corpus, tokens, LENGTH)
    sizes = np.diff(sample.offsets) - 1
    assert sizes.sum() <= max(tokens, LENGTH)
    if cut_to is None:
        assert sample.num_tokens == corpus.num_tokens
    else:
        assert sizes.max() == cut_to
    if tokens == 500:
        assert len(sample) == len(corpus)
    assert held_out_sample(corpus, tokens, LENGTH).keys == sample.keys


def test_the_estimate_grows_with_what_is_asked(monkeypatch):
    monkeypatch.setattr(sys.modules["potstill.runs.estimate"], "matmul_speed", lambda device, dtype: 1e11)
    model = tiny_llama()
    asked = {"micro_rows": 4, "length": 32, "dtype": torch.float32, "device": "cpu"}
    small, large = (estimate(model, model, tokens=tokens, **asked) for tokens in (1000, 2000))
    assert large.seconds_soft > small.seconds_soft > small.seconds_hard > 0
    assert small.memory["student"] == size_of(model).bytes
    more_rows = estimate(model, model, tokens=1000, **(asked | {"micro_rows": 8}))
    assert more_rows.memory["activations"] == 2 * small.memory["activations"]


def test_a_tracker_that_is_not_installed_is_not_left_out_silently():
    check_trackers(["tensorboard"])
    with pytest.raises(MissingExtraError, match=r'training.trackers = \["wandb"\] needs the package'):
        check_trackers(["wandb"])


def test_of_damaged_steps_those_before_are_left(tmp_path):
    folder = tiny_folder(tmp_path / "run")
    (tmp_path / "run" / "steps.jsonl").write_bytes(b'{"index": 1}\n{"index": 2, "\xb9": 0}\n{"index": 3}\n')
    assert folder.steps("distilled") == [{"index": 1}]
