"""docs/tutorial.md, typed as it stands: every command and every line of Python, in a folder with the project's source."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from test_docs import ROOT, blocks_of

TUTORIAL = ROOT / "docs" / "tutorial.md"
# What the tutorial's reader has typed before, and what tests/cli runs by itself.
ELSEWHERE = ("make setup", "potstill demo")


@contextmanager
def serving(command: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """The server of the tutorial, until the block ends."""
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=folder, env=environment, stderr=log, stdout=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (folder / "serve.log").read_text("utf-8")
                time.sleep(1)
        yield
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    blocks = [one for one in blocks_of(TUTORIAL.read_text("utf-8"), TUTORIAL) if one.language in ("sh", "python")]
    server = None
    for block in blocks:
        if block.text.strip() in ELSEWHERE:
            continue
        if block.text.startswith("potstill serve"):
            server = block.text.strip()
            continue
        command = ["sh", "-c", block.text] if block.language == "sh" else [sys.executable, "-c", block.text]
        if "curl" not in block.text:
            subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=3600)
            continue
        assert server is not None, "nothing was started that could be asked"
        with serving(server, tmp_path, environment):
            asked = subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300, capture_output=True)
        assert json.loads(asked.stdout)["potstill"]["answered_by"] == "student"
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert server is not None
