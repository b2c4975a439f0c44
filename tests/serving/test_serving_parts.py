"""The small parts: events, log-probabilities, metrics, hosts, files."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import DataError, ModelError, RecipeError, ServerError
from potstill.serving import Line, Metrics, RefusedError, gguf_file, open_port, upstreams, warning_of
from potstill.serving.logprobs import entries_of, tokens_of
from potstill.serving.metrics import Counter, Histogram
from potstill.serving.sse import EventReader, event
from potstill.serving.upstreams import pieces_of


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)), st.data())
def test_events_do_not_depend_on_how_bytes_come(texts, data):
    ending = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    raw = b": a comment\n\nretry: 5\n" + b"".join(event(text) for text in texts).replace(b"\n", ending)
    reader, found, at = EventReader(), [], 0
    while at < len(raw):
        size = data.draw(st.integers(1, len(raw)))
        found += reader.feed(raw[at : at + size])
        at += size
    assert found == texts


def test_lines_of_one_event_belong_together():
    assert EventReader().feed(b'data: {"a":\ndata: 1}\nid: 3\n\ndata:x\n\n') == ['{"a":\n1}', "x"]
    assert event({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    with pytest.raises(ServerError, match="UTF-8"):
        EventReader().feed(b"data: \xff\n")
    with pytest.raises(ServerError, match="bytes"):
        EventReader().feed(b"x" * (2**23 + 1))


def test_log_probabilities_of_both_shapes_are_the_same():
    chat = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -0.5}]}]}
    plain = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"b": -0.5}]}
    assert entries_of(chat) == entries_of(plain)
    for wrong in (3, {"content": 3}, {"content": [3]}, {"tokens": ["a"], "token_logprobs": []}, {"tokens": 3}):
        with pytest.raises(DataError):
            entries_of(wrong)


def test_tokens_are_those_of_each_choice_and_of_all_parts():
    def part(index: int, *logprobs: float) -> dict:
        tops = [{"token": "x", "logprob": -at} for at in (3.0, 0.1, 2.0)]
        content = [{"token": "a", "logprob": one, "top_logprobs": tops} for one in logprobs]
        return {"choices": [{"index": index, "delta": {"content": "a"}, "logprobs": {"content": content}}]}

    found = tokens_of([part(0, -1.0), part(1, -2.0), part(0, -3.0, -4.0), {"choices": []}], 2)
    assert [one.logprob for one in found[0]] == [-1.0, -3.0, -4.0]
    assert found[1][0].top == (-0.1, -2.0)
    for nothing in ([], [{"choices": []}], [part(0, -1.0), {"choices": [{"index": 1, "text": "a"}]}]):
        with pytest.raises(DataError):
            tokens_of(nothing, 2)


def test_metrics_are_what_prometheus_reads():
    counter = Counter("a_total", "Some.", ("who",))
    counter.add('"x"\n\\', by=2.0)
    counter.add("y")
    assert list(counter.lines())[2:] == ['a_total{who="\\"x\\"\\n\\\\"} 2', 'a_total{who="y"} 1']
    histogram = Histogram("b", "Some.", (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.see(value)
    assert list(histogram.lines())[2:] == [
        'b_bucket{le="1"} 2',
        'b_bucket{le="2"} 3',
        'b_bucket{le="+Inf"} 4',
        "b_sum 12",
        "b_count 4",
    ]
    line = re.compile(r"# (HELP|TYPE) potstill_\w+ .+|potstill_\w+(\{(\w+=\"[^\"]*\",?)+\})? [0-9.e+-]+")
    metrics = Metrics()
    metrics.confidence.see(0.25)
    assert all(line.fullmatch(one) for one in metrics.text().splitlines())


def test_a_line_lets_in_so_many():
    async def crowd() -> tuple[int, list[int]]:
        line, most = Line("student", at_once=2, most_waiting=3, seconds=0.05), [0]

        async def one() -> int:
            try:
                async with line.place():
                    most[0] = max(most[0], line.inside)
                    await asyncio.sleep(0.03)
                    return 200
            except RefusedError as refusal:
                return refusal.status

        found = await asyncio.gather(*(one() for _ in range(8)))
        assert (line.inside, line.waiting) == (0, 0)
        return most[0], found

    most, found = asyncio.run(crowd())
    assert most == 2
    assert (found.count(429), found.count(200) + found.count(503)) == (3, 5)
    assert found.count(200) >= 3


def test_elsewhere_needs_a_key():
    assert [warning_of(host, has_key=False) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")] == [""] * 4
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.evil.example"):
        with pytest.raises(RecipeError, match="--key-env"):
            warning_of(host, has_key=False)
        assert "TLS" in warning_of(host, has_key=True)


def test_a_port_is_had_once():
    with open_port("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(RecipeError, match="choose another"):
            open_port("127.0.0.1", first.getsockname()[1])


def test_the_gguf_file_that_is_meant(tmp_path):
    for source, said in ((tmp_path / "no", "there is no"), (tmp_path, "potstill export")):
        with pytest.raises(ModelError, match=said):
            gguf_file(str(source))
    exported = tmp_path / "export-gguf-q8_0"
    exported.mkdir()
    (exported / "a.gguf").touch()
    assert (
        gguf_file(str(tmp_path))
        == gguf_file(str(exported))
        == gguf_file(str(exported / "a.gguf"))
        == exported / "a.gguf"
    )
    (exported / "b.gguf").touch()
    with pytest.raises(ModelError, match=r"one of .*a\.gguf, .*b\.gguf"):
        gguf_file(str(tmp_path))


def test_what_is_no_gguf_file_yet_comes_with_the_commands_that_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/notes/student", "models/student"):
        Path(folder).mkdir(parents=True)
    Path("runs/notes/recipe.toml").touch()
    for source, said in (
        ("runs/notes", "(potstill export runs/notes --to gguf), then give the run (runs/notes)"),
        ("runs/notes/student/", "(potstill export runs/notes --to gguf), then give the run (runs/notes)"),
        (
            "models/student",
            "(potstill export models/student --to gguf --data TEXT --out models/student-q8_0), then give models/student-q8_0",
        ),
        (
            "pocket",
            "potstill export pocket --to gguf --data standard-library --out pocket-q8_0, then give pocket-q8_0",
        ),
    ):
        with pytest.raises(ModelError, match=re.escape(said)):
            gguf_file(source)


def test_an_answer_is_json_even_with_half_a_character():
    assert json.loads(event({"a": "\ud800"})[6:]) == {"a": "?"}


async def _told_in_pieces(told: list[int]) -> AsyncIterator[bytes]:
    """Five at once, two later, and then the connection breaks."""
    for number in range(5):
        told.append(number)
        yield b"%d" % number
    await asyncio.sleep(0.02)
    yield b"5"
    yield b"6"
    raise httpx.ReadError("gone")


def test_what_comes_at_once_is_passed_on_at_once() -> None:
    async def heard() -> tuple[list[bytes], str]:
        found: list[bytes] = []
        try:
            async for raw in pieces_of(httpx.Response(200, content=_told_in_pieces([]))):
                found.append(raw)
        except httpx.ReadError as error:
            return found, str(error)
        return found, ""

    assert asyncio.run(heard()) == ([b"0", b"1234", b"56"], "gone")


def test_an_engine_waits_for_a_slow_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "_HELD_BYTES", 3)

    async def heard() -> list[int]:
        told, counts = [], []
        with contextlib.suppress(httpx.ReadError):
            async for _ in pieces_of(httpx.Response(200, content=_told_in_pieces(told))):
                counts.append(len(told))
                await asyncio.sleep(0.01)
        return counts

    assert asyncio.run(heard())[:2] == [1, 4]
