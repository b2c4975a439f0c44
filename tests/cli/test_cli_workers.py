"""What `potstill label` and `write` are told of workers and URLs, as far as it is known without a Ray (tests/workers starts one)."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from uuid import uuid4

import fsspec
import pytest
from commands import Workshop

from potstill.errors import MissingExtraError
from potstill.workers import check_ray
from potstill.workers.cluster import processors_of

STORED = ("--set", "teacher.kind=stored")


@pytest.fixture
def url(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workshop.path / "cache"))
    return f"memory://{uuid4().hex}/labels"


def test_labels_go_to_a_url_and_are_learned_from_there(workshop, url, monkeypatch):
    labelled = workshop.run("label", "recipe.toml", "-o", url)
    assert labelled.exit_code == 0, labelled.output
    assert f"labels   {url}" in labelled.output
    assert workshop.run("label", "recipe.toml", "-o", "kept").exit_code == 0
    files, root = fsspec.url_to_fs(url)
    there = {name.rsplit("/", 1)[-1]: files.cat_file(name) for name in files.find(root)}
    assert there == {path.name: path.read_bytes() for path in (workshop.path / "kept").iterdir()}

    monkeypatch.setenv("XDG_CACHE_HOME", str(workshop.path / "elsewhere"))
    learned = workshop.run("distill", "recipe.toml", *STORED, "--set", f"teacher.labels={url}", "-o", "run")
    assert learned.exit_code == 0, learned.output
    assert "bytes a prediction" in workshop.run("inspect", url).output
    named = workshop.run("label", "recipe.toml", "--set", f"teacher.labels={url}")
    assert "nothing was missing" in named.output


def test_a_url_that_nothing_opens_is_said(workshop, url):
    assert "Protocol not known" in workshop.refused("label", "recipe.toml", "-o", "nowhere://x")
    assert "holds no soft labels" in workshop.refused(
        "distill", "recipe.toml", *STORED, "--set", f"teacher.labels={url}", "-o", "run"
    )


def test_where_without_how_many_is_said(workshop):
    assert "say with --workers how many" in workshop.refused("label", "recipe.toml", "--ray", "127.0.0.1:6379")


def test_a_server_needs_no_workers(workshop):
    writer = 'writer={kind="server", url="http://127.0.0.1:9/v1", model="m", concurrency=5}'
    (workshop.path / "w.toml").write_text('[prompts]\nsource = "text.jsonl"\n')
    said = workshop.refused("write", "w.toml", "--workers", "2", "--set", writer)
    assert "raise writer.concurrency (5) instead" in said.replace("\n", " ")
    assert "say with --workers how many" in workshop.refused("write", "w.toml", "--ray", "h:1", "--set", writer)
    assert not (workshop.path / "runs").exists()


def test_without_ray_the_extra_is_named(workshop, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert find_spec("ray") is None
    with pytest.raises(MissingExtraError):
        check_ray()
    assert "pip install '.[ray]'" in workshop.refused("label", "recipe.toml", "--workers", "2")
    (workshop.path / "w.toml").write_text(
        '[writer]\nkind = "local"\nmodel = "teacher"\n[prompts]\nsource = "text.jsonl"\n'
    )
    assert "pip install '.[ray]'" in workshop.refused("write", "w.toml", "--workers", "2")
    assert not (workshop.path / "runs").exists()


def test_a_dry_run_shares_the_estimate(workshop):
    """And starts no Ray."""
    assert "predictions to label" in workshop.run("label", "recipe.toml", "--dry-run", "--workers", "2").output
    assert "ray" not in sys.modules


def test_the_command_line_imports_ray_for_nobody():
    code = "import sys, potstill.cli.app, potstill.cli.labelling, potstill.workers; sys.exit('ray' in sys.modules or 's3fs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_processors_are_shared_among_workers():
    assert processors_of([8], 2) == 4
    assert processors_of([8, 8, 2], 3) == 6
    assert processors_of([16, 4], 1) == 16  # of one machine, whatever the others have
    assert processors_of([2], 5) == 1
