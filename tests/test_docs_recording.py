"""The recording of README.md: shortened in time alone, and small enough for a page."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return import_module("recording")


def test_all_time_is_shortened_evenly_and_what_was_drawn_over_is_left_out(recording):
    table, erased = "one\r\ntwo", "\r\x1b[2K\x1b[1A\x1b[2K"
    outputs = [(0.0, "$ x\r\n"), (50.0, table), (99.0, erased + table), (99.2, erased + "1\r\n2"), (100.0, "end\r\n")]
    found = recording.shortened(outputs, recording.AT_THE_END + 10.0)
    assert [round(when, 1) for when, _ in found] == [0.0, 4.8, 9.6, 21.6]
    assert [text for _, text in found] == ["$ x\r\n", table, erased + "1\r\n2end\r\n", ""]


def test_what_erases_more_or_less_than_the_last_drew_stays(recording):
    up = "\r\x1b[2K\x1b[1A\x1b[2K"
    kept = [(0.0, "\r\x1b[2Kone line"), (0.1, up + "a\r\nb"), (0.2, "\r\x1b[2Kc")]
    assert "".join(text for _, text in recording.shortened(kept, 60.0)) == "".join(text for _, text in kept)


def test_the_picture_is_small_and_names_no_place_of_a_machine():
    picture = (ROOT / "docs" / "pictures" / "demo.svg").read_text("utf-8")
    assert len(picture) < 300_000
    assert "$ potstill demo" in picture
    assert "clears the bar" in picture
    assert not any(place in picture for place in ("/home/", "/root/", "/tmp/", "/Users/"))
