"""What a client asks: what is wrong is named, a thousand damaged bodies never reach an engine as a defect of ours."""

import json
import random
from copy import deepcopy

import httpx
import pytest
from doors import open_door, policy
from fake_engine import engine

from potstill.serving import Limits, RefusedError
from potstill.serving.asking import asked_of

USER = [{"role": "user", "content": "a"}]


def asked(body: object, path="/chat/completions", limits: Limits | None = None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asked_of(raw, path, limits or Limits(), ("student", "teacher"))


def refused(body: object, path="/chat/completions", limits: Limits | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as found:
        asked(body, path, limits)
    return found.value


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("messages", [], "messages"),
        ("messages", "hello", "messages"),
        ("messages", [{"role": "user"}], "messages[0]"),
        ("messages", [*USER, {"role": "boss", "content": "a"}], "messages[1]"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
            "messages[0]",
        ),
        ("messages", [{"role": "user", "content": "a", "weight": 1}], "messages[0]"),
        ("messages", [{"role": "assistant", "content": None}], "messages[0]"),
        ("temperature", "hot", "temperature"),
        ("temperature", True, "temperature"),
        ("temperature", 2.1, "temperature"),
        ("top_p", -0.1, "top_p"),
        ("n", 0, "n"),
        ("n", 9, "n"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 1025, "max_tokens"),
        ("max_completion_tokens", 10**30, "max_completion_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("n_predict", 100000, "n_predict"),
        ("stop", [""], "stop"),
        ("stop", ["a"] * 17, "stop"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("top_logprobs", 3, "top_logprobs"),
        ("top_logprobs", 21, "top_logprobs"),
        ("logit_bias", {"a": 1}, "logit_bias"),
        ("logit_bias", {"1": 1000}, "logit_bias"),
        ("tools", [1], "tools"),
        ("tool_choice", [], "tool_choice"),
        ("response_format", {"type": "xml"}, "response_format"),
        ("seed", "a", "seed"),
        ("model", 1, "model"),
    ],
)
def test_the_field_that_is_wrong_is_named(field, value, named):
    refusal = refused({"messages": USER, field: value})
    assert (refusal.status, refusal.param) == (400, named)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b'{"messages": NaN}', b'{"seed": ' + b"9" * 5000 + b"}", b"[" * 100_000,
     b'{"prompt": "\\ud800"}', b'{"messages": ' + b"[" * 70 + b"]" * 70 + b"}", b'{"messages": 1}', b"{}"],
)  # fmt: skip
def test_what_is_no_request_is_refused(raw):
    assert refused(raw).status == 400


@pytest.mark.parametrize("prompt", [[], [1.5], [-1], [True], ["a", 1], [[]], {}, 3])
def test_a_prompt_is_text_or_tokens(prompt):
    assert refused({"prompt": prompt}, "/completions").param == "prompt"


def test_what_is_right_is_passed_on():
    found = asked({"messages": USER, "model": "teacher", "temperature": None, "stream": True, "n": 2, "seed": 7})
    assert (found.wants, found.is_stream, found.top_logprobs, found.prompt) == ("teacher", True, None, "a")
    assert found.body == {"messages": USER, "stream": True, "n": 2, "seed": 7, "max_tokens": 1024}
    tool = {
        "role": "tool",
        "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}],
        "tool_call_id": "1",
    }
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert asked({"messages": [*USER, called, tool], "max_completion_tokens": 5}).prompt == "bc"
    for prompt, last in (("a", "a"), (["a"], "a"), (["a", "b"], None), ([1, 2], None), ([[1], [2]], None)):
        found = asked({"prompt": prompt, "logprobs": 2}, "/completions")
        assert (found.prompt, found.top_logprobs, found.wants) == (last, 2, None)
    assert refused({"prompt": ["a"] * 9}, "/completions").param == "prompt"
    assert refused({"prompt": ["a"] * 3, "n": 3}, "/completions").param == "n"
    assert asked({"prompt": "a", "logprobs": 0}, "/completions").body["logprobs"] == 1
    none = asked({"messages": USER, "logprobs": True})
    assert (none.body["top_logprobs"], none.top_logprobs) == (1, 0)
    allowed = Limits(more_fields=frozenset({"guided_json"}))
    assert "guided_json" in asked({"messages": USER, "guided_json": {}}, limits=allowed).body


def damaged(random_: random.Random, whole: dict) -> bytes:
    """A request with something wrong: bytes changed, fields exchanged, values of other kinds, cut off."""
    values: list[object] = [
        None,
        True,
        -1,
        0,
        1e308,
        2**70,
        "",
        "x" * 300,
        [],
        {},
        [[]],
        [None],
        {"a": []},
        "\u0000",
        "\U0001f600",
        [1, "a"],
    ]
    body = json.loads(json.dumps(whole))
    for _ in range(random_.randint(1, 4)):
        spots = [body]
        for spot in spots:
            inside = spot.values() if isinstance(spot, dict) else spot
            spots.extend(one for one in inside if isinstance(one, dict | list))
        spot = random_.choice(spots)
        if isinstance(spot, dict):
            key = random_.choice([*spot, "n", "stop", "logprobs", "top_logprobs", "tools", "seed", "x", ""])
            spot[key] = deepcopy(random_.choice(values))
        elif spot:
            spot[random_.randrange(len(spot))] = deepcopy(random_.choice(values))
    raw = bytearray(json.dumps(body).encode())
    if random_.random() < 0.5:
        for _ in range(random_.randint(1, 8)):
            raw[random_.randrange(len(raw))] = random_.randrange(256)
    return bytes(raw[: random_.randint(0, len(raw))] if random_.random() < 0.2 else raw)


REQUESTS = (
    ("chat/completions", {"model": "potstill", "messages": [{"role": "system", "content": "b"}, *USER], "stream": True, "temperature": 0.5,
                          "max_tokens": 3, "stop": ["z"], "logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}}),
    ("completions", {"prompt": ["a", "hard"], "max_tokens": 2, "logprobs": 1, "logit_bias": {"5": 1}, "n": 1}),
)  # fmt: skip


def test_a_thousand_damaged_requests():
    random_ = random.Random(8)
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
        httpx.Client(headers={"content-type": "application/json"}) as client,
    ):
        statuses = set()
        for number in range(1000):
            path, whole = REQUESTS[number % 2]
            reply = client.post(f"{door.url}/v1/{path}", content=damaged(random_, whole))
            statuses.add(reply.status_code)
            if reply.status_code != 200:
                assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert {200, 400} <= statuses <= {200, 400, 404}
