"""`potstill serve` as a process: refused in words, begun, and ended in peace."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from commands import Workshop
from doors import policy, saved
from doors_alone import free_port, served
from fake_engine import engine


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return Workshop(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "mode teacher needs teacher (--teacher), and was given none"),
        (("no.gguf",), "there is no no.gguf"),
        (("http://127.0.0.1:9/v1",), "#NAME"),
        (("http://127.0.0.1:9/v1#a", "-t", "http://127.0.0.1:9/v1#a"), "--policy FILE (routed) or --mode speculative"),
        (("http://127.0.0.1:9/v1#a", "-t", "b.gguf", "--mode", "speculative"), "two GGUF files"),
        (
            ("http://127.0.0.1:9/v1#a", "-p", "policy.json"),
            "mode routed needs student and teacher (--teacher), and was given student",
        ),
        (("http://127.0.0.1:9/v1#a", "-p", "no.json"), "can't be read"),
        (("http://127.0.0.1:9/v1#a", "-p", "policy.json", "--mode", "student"), "in no other"),
        (("http://127.0.0.1:9/v1#a", "--host", "0.0.0.0"), "--key-env"),
        (("http://127.0.0.1:9/v1#a", "--key-env", "NOT_SET"), "'NOT_SET', which is not set"),
    ],
)
def test_what_can_not_be_served_is_refused_in_words(words, said, workshop, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    saved(policy(), workshop.path)
    assert said in " ".join(workshop.refused("serve", *words, "--port", free_port()).split())


def test_the_extra_is_named(workshop, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "uvicorn" else object())
    assert "pip install '.[serve]'" in workshop.refused("serve", "a.gguf")


def test_an_answer_on_its_way_is_finished_at_the_end(tmp_path):
    port = free_port()
    with (
        engine(seconds_a_token=0.1) as student,
        engine(name="teacher") as teacher,
        served(
            f"{student.url}#s", "-t", f"{teacher.url}#t", "-p", saved(policy(), tmp_path), "--key-env", "THE_KEY",
            "--log-prompts", port=port, THE_KEY="sk-secret",
        ) as door,
    ):  # fmt: skip
        body = {"model": "student", "messages": [{"role": "user", "content": "a b c d e f g h"}], "stream": True}
        headers = {"authorization": "Bearer sk-secret"}
        with httpx.stream(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers, timeout=30
        ) as reply:
            lines = reply.iter_lines()
            first = next(lines)
            door.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert json.loads(first[6:])["potstill"]["answered_by"] == "student"
        assert rest[-2:] == ["data: [DONE]", ""]
        assert door.stderr is not None
        said = door.stderr.read()
        assert door.wait(30) == 0
    assert '"prompt": "a b c d e f g h"' in said
    assert "sk-secret" not in said
    assert "Traceback" not in said


def test_a_policy_without_a_threshold_is_told_at_the_door(tmp_path):
    port = free_port()
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        served(f"{student.url}#s", "-t", f"{teacher.url}#t", "-p", saved(policy(None), tmp_path), port=port) as door,
    ):
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
        door.send_signal(signal.SIGTERM)
        assert door.stderr is not None
        said = " ".join(door.stderr.read().split())
        assert door.wait(30) == 0
    assert "the policy promises nothing, so the teacher answers everything" in said


@pytest.mark.slow
def test_an_answer_that_takes_too_long_at_the_end_is_cut():
    port = free_port()
    with engine(seconds_a_token=5.0) as student, served(f"{student.url}#s", "--grace-seconds", "1", port=port) as door:
        body = {"messages": [{"role": "user", "content": "a b"}], "stream": True}
        with (
            contextlib.suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=30) as reply,
        ):
            lines = reply.iter_lines()
            next(lines)
            door.send_signal(signal.SIGTERM)
            assert "data: [DONE]" not in list(lines)
        assert door.wait(30) == 0


def test_the_door_needs_no_torch():
    """What serves starts without what trains; packages are listed in a process of their own."""
    code = "import sys, potstill.cli.app, potstill.cli.serving; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "potstill.serving.app" in loaded
    assert "potstill.engines.llama" in loaded
    assert set(loaded) & {"torch", "transformers", "datasets", "pyarrow", "accelerate", "jaxtyping"} == set()
