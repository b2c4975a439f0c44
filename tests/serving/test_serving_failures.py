"""Engines that fail, clients that leave, too many at once: each gets what is promised, and nothing is left behind."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import openai
import pytest
from doors import QUICK, metrics_with, open_door, policy, sample
from fake_engine import engine

from potstill.serving import Timeouts

EASY, HARD = "an easy question", "a hard question"
STATUS = {
    "400": 400, "401": 502, "429": 503, "500": 502, "503": 503, "closed": 502, "stalled": 504, "half": 502, "no JSON": 502,
    "no choices": 502, "nothing": 502, "odd": 502, "empty": 502, "torn": 502, "NaN": 502, "1e999": 502,
    "hangs": 504,
}  # fmt: skip
# In the middle of a stream.
LATER = ("half", "error", "torn", "NaN", "1e999", "hangs")
BEFORE = [
    (fault, stream) for fault in STATUS for stream in (False, True) if not stream or fault not in (*LATER, "empty")
]


def quick_for(fault: str) -> Timeouts | None:
    return QUICK if fault in ("stalled", "hangs") else None


def asks(url: str, text: str, *, stream: bool = False, **how: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "stream": stream, **how}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20)


def answer_in(reply: httpx.Response) -> str:
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return reply.json()["choices"][0]["message"]["content"]
    assert reply.text.endswith("data: [DONE]\n\n"), reply.text
    events = [json.loads(event[6:]) for event in reply.text.split("\n\n")[:-2]]
    return "".join(event["choices"][0]["delta"]["content"] for event in events)


@pytest.mark.parametrize(("fault", "stream"), BEFORE)
def test_what_fails_before_the_first_byte_has_a_status(fault, stream):
    with engine(fault=fault) as student, open_door(student=student, timeouts=quick_for(fault)) as door:
        reply = asks(door.url, EASY, stream=stream)
        assert reply.status_code == STATUS[fault]
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert ("retry-after" in reply.headers) == (STATUS[fault] == 503)
        assert ("the engine's own words" in reply.text) == (fault == "400")
        student.behaviour.fault = None
        assert answer_in(asks(door.url, EASY, stream=stream)) == f"student to {EASY}"


@pytest.mark.parametrize("fault", LATER)
def test_what_fails_later_is_told_in_the_stream(fault):
    with engine(fault=fault) as student, open_door(student=student, timeouts=quick_for(fault)) as door:
        reply = asks(door.url, EASY, stream=True)
        *_, last, nothing = reply.text.split("\n\n")
        assert (reply.status_code, nothing) == (200, "")
        assert json.loads(last[6:])["error"]["code"] == "student_failed"
        with pytest.raises(openai.APIError, match="the student"):
            list(
                door.client().chat.completions.create(
                    model="student", messages=[{"role": "user", "content": "a"}], stream=True
                )
            )
        broken = "potstill_streams_broken_total"
        assert sample(metrics_with(door.url, broken, 2), broken) == 2


@pytest.mark.parametrize(("fault", "stream"), [*BEFORE, *((fault, True) for fault in LATER)])
def test_whatever_the_teacher_does_the_student_goes_on(fault, stream):
    with (
        engine() as student,
        engine(name="teacher", fault=fault) as teacher,
        open_door(student=student, teacher=teacher, by=policy(), timeouts=quick_for(fault)) as door,
    ):
        reply = asks(door.url, HARD, stream=stream)
        if stream and fault in LATER:
            assert reply.status_code == 200
            *_, last, _ = reply.text.split("\n\n")
            assert json.loads(last[6:])["error"]["code"] == "teacher_failed"
            assert "[DONE]" not in reply.text
        else:
            code = "refused_by_engine" if fault == "400" else "teacher_failed"
            assert (reply.status_code, reply.json()["error"]["code"]) == (STATUS[fault], code)
        assert answer_in(asks(door.url, EASY, stream=stream)) == f"student to {EASY}"


@pytest.mark.parametrize("stream", [False, True])
def test_what_can_not_be_is_said_in_numbers_that_json_has(stream):
    with engine(fault="-Infinity") as student, open_door(student=student) as door:
        reply = asks(door.url, EASY, stream=stream, logprobs=True, top_logprobs=1)
        assert reply.status_code == 200
        assert "Infinity" not in reply.text
        assert '"logprob":-9999.0' in reply.text


def test_a_connection_that_broke_before_an_answer_is_tried_once_more():
    with engine(fault="closed", faults_left=1) as student, open_door(student=student) as door:
        assert answer_in(asks(door.url, EASY)) == f"student to {EASY}"
        assert student.behaviour.begun == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_teacher_that_is_gone_costs_what_the_student_is_not_sure_of(stream):
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        teacher.kill()
        assert answer_in(asks(door.url, EASY, stream=stream)) == f"student to {EASY}"
        refused = asks(door.url, HARD, stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "teacher_failed")
        assert httpx.get(f"{door.url}/health").json()["status"] == "degraded"
        teacher.revive()
        time.sleep(1.1)  # health is asked once a second
        assert httpx.get(f"{door.url}/health").json()["status"] == "ok"
        assert answer_in(asks(door.url, HARD, stream=stream)) == f"teacher to {HARD}"


@pytest.mark.parametrize("threshold", [0.8, None])
@pytest.mark.parametrize("stream", [False, True])
def test_the_student_answers_for_its_teacher_where_told(stream, threshold):
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy(threshold), teacher_down="student") as door,
    ):
        teacher.kill()
        reply = asks(door.url, HARD, stream=stream)
        assert answer_in(reply) == f"student to {HARD}"
        assert reply.headers["x-potstill-reason"] == "teacher failed"
        assert ("x-potstill-confidence" in reply.headers) == (threshold is not None)
        assert asks(door.url, HARD, model="teacher").status_code == 503


@pytest.mark.parametrize("fault", ["400", "500", "half", "no JSON"])
def test_the_teacher_answers_for_a_student_that_fails(fault):
    with (
        engine(fault=fault) as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        for stream in (False, True):
            reply = asks(door.url, EASY, stream=stream)
            assert answer_in(reply) == f"teacher to {EASY}"
            assert reply.headers["x-potstill-reason"] == "student failed"
        teacher.behaviour.fault = "400"
        assert asks(door.url, EASY).status_code == 400


def test_a_teacher_that_hangs_is_left_alone_after_three_failures(monkeypatch):
    monkeypatch.setattr("potstill.serving.upstreams._REST_SECONDS", 2.0)
    with (
        engine() as student,
        engine(name="teacher", fault="stalled") as teacher,
        open_door(student=student, teacher=teacher, by=policy(), timeouts=QUICK) as door,
    ):
        assert [asks(door.url, HARD).status_code for _ in range(5)] == [504, 504, 504, 503, 503]
        assert teacher.behaviour.begun == 3
        text = door.metrics.text()
        assert sample(text, 'potstill_engine_failures_total{engine="teacher",kind="timeout"}') == 3
        teacher.behaviour.fault = None
        deadline = time.monotonic() + 20
        while (status := asks(door.url, HARD).status_code) == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(stream):
    with (
        engine(seconds_a_token=0.2) as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy(), in_flight=1) as door,
    ):
        for who in ("student", "potstill"):
            body = {"messages": [{"role": "user", "content": "word " * 200}], "stream": stream, "model": who}
            with (
                suppress(httpx.TimeoutException),
                httpx.stream("POST", f"{door.url}/v1/chat/completions", json=body, timeout=0.3) as reply,
            ):
                next(reply.iter_bytes())  # and goes
        deadline = time.monotonic() + 5
        while student.behaviour.left < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (student.behaviour.left, student.behaviour.inside) == (2, 0)
        student.behaviour.seconds_a_token = 0.0
        assert answer_in(asks(door.url, EASY)) == f"student to {EASY}"
        text = door.metrics.text()
        assert sample(text, "potstill_clients_gone_total") == 2
        assert 'status="499"' in text


def test_a_client_that_reads_nothing_frees_the_engine():
    with (
        engine(answer=" ".join(["x" * 10**6] * 40)) as student,
        open_door(student=student, timeouts=Timeouts(idle=1.0)) as door,
    ):
        body = json.dumps({"prompt": "a", "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2]))) as client:
            client.sendall(head.encode() + b"\r\n\r\n" + body)
            deadline = time.monotonic() + 10
            while not sample(door.metrics.text(), "potstill_clients_gone_total") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert sample(door.metrics.text(), "potstill_clients_gone_total") == 1
            while student.behaviour.inside and time.monotonic() < deadline:
                time.sleep(0.05)
            assert (student.behaviour.begun, student.behaviour.inside) == (1, 0)


def test_too_many_at_once_are_told_to_come_again():
    with engine(seconds_a_token=0.05) as student, open_door(student=student, in_flight=2, queue=3) as door:
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda _: asks(door.url, "a b c d"), range(12)))
        statuses = [reply.status_code for reply in replies]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 5
        assert all(reply.headers["retry-after"] == "1" for reply in replies if reply.status_code == 429)
        assert student.behaviour.most_inside == 2
        assert asks(door.url, EASY).status_code == 200


def test_a_full_line_before_the_student_does_not_cost_the_teacher():
    with (
        engine(seconds_a_token=0.1) as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy(), in_flight=1, queue=0) as door,
        ThreadPoolExecutor(4) as pool,
    ):
        statuses = [reply.status_code for reply in pool.map(lambda _: asks(door.url, EASY), range(4))]
        assert set(statuses) == {200, 429}
        assert teacher.behaviour.bodies == []


def test_nobody_waits_for_ever():
    with engine(seconds_a_token=0.3) as student, open_door(student=student, in_flight=1, queue_seconds=0.2) as door:
        with ThreadPoolExecutor(2) as pool:
            replies = list(pool.map(lambda _: asks(door.url, "a b"), range(2)))
        assert sorted(reply.status_code for reply in replies) == [200, 503]


def test_streams_are_not_mixed_and_none_is_lost_when_the_teacher_is_killed():
    with (
        engine(seconds_a_token=0.005) as student,
        engine(name="teacher", seconds_a_token=0.005) as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        client = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=24))

        def one(number: int) -> tuple[bool, httpx.Response, str]:
            if number == 60:
                teacher.kill()
            text = f"{'hard' if number % 3 == 0 else 'easy'} number {number}"
            body = {"messages": [{"role": "user", "content": text}], "stream": True}
            return number % 3 == 0, client.post(f"{door.url}/v1/chat/completions", json=body), text

        with client, ThreadPoolExecutor(24) as pool:
            found = list(pool.map(one, range(180)))
        for is_hard, reply, text in found:
            if not is_hard:
                assert answer_in(reply) == f"student to {text}"
            elif reply.status_code == 200 and reply.text.endswith("[DONE]\n\n"):
                assert answer_in(reply) == f"teacher to {text}"
            elif reply.status_code == 200:
                assert '"teacher_failed"' in reply.text
            else:
                assert reply.status_code in (502, 503)
        assert {200, 503} <= {reply.status_code for is_hard, reply, _ in found if is_hard}


def test_a_slow_request_is_not_waited_for():
    from potstill.serving import Limits

    with engine() as student, open_door(student=student, limits=Limits(body_seconds=0.2)) as door:

        def slowly():
            yield b'{"prompt": '
            time.sleep(0.5)
            yield b'"a"}'

        reply = httpx.post(f"{door.url}/v1/completions", content=slowly(), headers={"content-type": "application/json"})
        assert reply.status_code == 408
