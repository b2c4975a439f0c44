"""Processes that are killed, and a log that no longer fits the disk: who asks is told so, and all goes on."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from doors import policy, saved
from doors_alone import engine_process, free_port, served
from fake_engine import engine

EASY, HARD = "an easy question", "a hard question"


def body(text: str, *, stream: bool = False) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "stream": stream}


def asks(port: int, text: str) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body(text), timeout=30)


def said(reply: httpx.Response) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def test_a_door_that_is_killed_cuts_its_streams_and_opens_again_at_once():
    port = free_port()
    with engine(seconds_a_token=0.2) as student:
        for _ in range(2):
            with (
                served(f"{student.url}#s", port=port) as door,
                httpx.stream(
                    "POST",
                    f"http://127.0.0.1:{port}/v1/chat/completions",
                    json=body("word " * 50, stream=True),
                    timeout=30,
                ) as reply,
            ):
                lines = reply.iter_lines()
                next(lines)
                os.kill(door.pid, signal.SIGKILL)
                with pytest.raises(httpx.TransportError):  # no end that could be taken for the answer's own
                    list(lines)
        deadline = time.monotonic() + 20
        while student.behaviour.left < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (student.behaviour.left, student.behaviour.inside) == (2, 0)
        student.behaviour.seconds_a_token = 0.0
        with served(f"{student.url}#s", port=port):
            assert said(asks(port, EASY)) == f"student to {EASY}"


def test_a_teacher_that_is_killed_in_the_middle_is_told_and_the_student_goes_on(tmp_path):
    port = free_port()
    with (
        engine() as student,
        engine_process("teacher", 0.2) as (teacher, process),
        served(f"{student.url}#s", "-t", f"{teacher}#t", "-p", saved(policy(), tmp_path), port=port),
    ):
        url, hard = f"http://127.0.0.1:{port}/v1/chat/completions", body("hard " * 50, stream=True)
        with httpx.stream("POST", url, json=hard, timeout=30) as reply:
            lines = reply.iter_lines()
            next(lines)
            os.kill(process.pid, signal.SIGKILL)
            rest = list(lines)
        assert '"teacher_failed"' in rest[-2]
        assert "data: [DONE]" not in rest
        refused = asks(port, HARD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "teacher_failed")
        assert said(asks(port, EASY)) == f"student to {EASY}"


@pytest.mark.parametrize("is_full_at_once", [False, True])
def test_a_disk_that_is_full_costs_the_log_alone(is_full_at_once, tmp_path):
    port, log = free_port(), Path("/dev/full") if is_full_at_once else tmp_path / "log"
    with (
        engine() as student,
        log.open("w") as lines,
        served(f"{student.url}#s", port=port, log=lines, most_kib=1) as door,
    ):
        assert [said(asks(port, EASY)) for _ in range(12)] == [f"student to {EASY}"] * 12
        if not is_full_at_once:
            assert log.stat().st_size == 1024
        door.send_signal(signal.SIGTERM)
        assert door.wait(30) == 0
