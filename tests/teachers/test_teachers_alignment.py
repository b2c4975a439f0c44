"""Two tokenizations of one text: every boundary in common ends a span, and both sides of a span are the same bytes."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from foreign_tokenizers import composing, pocket, sentencepiece, smollm2, without_front
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import word_tokenizer
from tiny_models import byte_tokenizer

from potstill.errors import VocabularyError
from potstill.teachers.alignment import Placed, Retelling, shared_spans

BYTES = byte_tokenizer()
TOKENIZERS = {
    "bytes": lambda: BYTES,
    "pocket": pocket,
    "sentencepiece": sentencepiece,
    "composing": composing,
    "smollm2": smollm2,
}
PAIRS = [
    ("bytes", "pocket"),
    ("pocket", "bytes"),
    ("pocket", "pocket"),
    ("sentencepiece", "pocket"),
    ("pocket", "sentencepiece"),
    ("bytes", "composing"),
    ("composing", "sentencepiece"),
    ("smollm2", "pocket"),
    ("pocket", "smollm2"),
]
PIECES = [
    " ",
    "  ",
    "\t",
    "\r\n",
    "\n\n    ",
    "the ",
    "in",
    "aba",
    "def f(x):",
    "é",
    "e\u0301",
    "🙂",
    "👩🏽‍🚀",
    "東京",
    "ﬁ",
    "<|end|>",
    "<s>",
    "12",
    "▁",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12).map("".join)


@cache
def retelling(one: str, other: str) -> Retelling:
    found = TOKENIZERS[one](), TOKENIZERS[other]()
    if None in found:
        pytest.skip("SmolLM2's tokenizer is not installed")
    return Retelling(*found)


def check_spans(told: Retelling, ids: list[int], theirs: Placed, *, begins: bool) -> None:
    ours = told.place(ids, begins=begins)
    spans = shared_spans(ours, theirs)
    assert (spans.ours_stop > spans.ours).all()
    assert (spans.theirs_stop > spans.theirs).all()
    for begin, end in ((spans.ours, spans.ours_stop), (spans.theirs, spans.theirs_stop)):
        assert (end[:-1] <= begin[1:]).all(), "spans are in order and apart"
    spelled = told._spelled(ids, begins=begins)
    found = set()
    for a, b, c, d in zip(spans.ours, spans.ours_stop, spans.theirs, spans.theirs_stop, strict=True):
        found.add((int(ours.starts[a]), int(ours.stops[b - 1])))
        mine = b"".join(spelled[a:b])
        yours = b"".join(told.theirs.spelled[token] for token in theirs.ids[c:d])
        assert yours in (mine, b" " + mine), "only an invented space may be more"
        if b - a > 1 and d - c > 1:
            assert not set(ours.stops[a : b - 1]) & set(theirs.stops[c : d - 1]), "the smallest"
    # By definition: between neighbours of the common boundaries where both have tokens all the way.
    has_place = theirs.starts >= 0
    bounds = sorted(set(ours.starts) & set(theirs.starts[has_place]) | set(ours.stops) & set(theirs.stops[has_place]))
    covered = {
        unit
        for start, stop in zip(theirs.starts[has_place], theirs.stops[has_place], strict=True)
        for unit in range(start, stop)
    }
    expected = {(int(a), int(b)) for a, b in pairwise(bounds) if set(range(a, b)) <= covered}
    assert found == expected


@pytest.mark.parametrize(("one", "other"), PAIRS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_spans_of_whole_texts_and_of_windows(one: str, other: str, data: st.DataObject) -> None:
    told = retelling(one, other)
    text = data.draw(TEXTS)
    ids = told.ours.tokenizer(text).input_ids
    (theirs,) = told.tell([(ids, True)])
    check_spans(told, ids, theirs, begins=True)
    raw = b"".join(told._spelled(ids, begins=True))
    # A leading space of the text's own can't be told from an invented one.
    is_whole = raw in [one.encode() for one in (text, text.removeprefix(" "), unicodedata.normalize("NFC", text))]
    # SmolLM2 has no token for some bytes, SentencePiece a space of its own, and what looks like a special token is one of ours.
    assert is_whole or one == "smollm2" or "<" in text or "▁" in text
    if is_whole and "<" not in text and ids:
        assert theirs.ids.tolist() == [*told.theirs.front, *without_front(told.theirs.tokenizer, raw.decode())]
    start = data.draw(st.integers(0, len(ids)))
    window = ids[start : start + data.draw(st.integers(1, 12))]
    (theirs,) = told.tell([(window, False)])
    check_spans(told, window, theirs, begins=False)


def test_bytes_that_are_no_character_are_left_out():
    told = Retelling(BYTES, pocket())
    raw = "ü 🙂 ab".encode()[1:-1]  # begins in the middle of ü
    alphabet = {spelling: token for token, spelling in enumerate(told.ours.spelled) if spelling}
    ids = [alphabet[bytes([byte])] for byte in (*raw, 0xF0, 0x9F)]  # ... and ends in the middle of an emoji
    (theirs,) = told.tell([(ids, False)])
    assert b"".join(told.theirs.spelled[token] for token in theirs.ids) == " 🙂 a".encode()
    spans = shared_spans(told.place(ids, begins=False), theirs)
    assert spans.ours[0] == 1
    assert spans.ours_stop[-1] == len(ids) - 2
    broken = [alphabet[bytes([byte])] for byte in b"ab\xff cd"]
    (theirs,) = told.tell([(broken, False)])
    assert b"".join(told.theirs.spelled[token] for token in theirs.ids) == b"ab cd"
    check_spans(told, broken, theirs, begins=False)


@pytest.mark.parametrize("bos", [True, False])
def test_bos_of_the_one_and_of_the_other(bos: bool) -> None:
    has, end = sentencepiece(bos=bos), pocket().eos_token_id
    told = Retelling(has, pocket())  # the pocket teacher's tokenizer has a BOS, which is its EOS too
    ids = has("the inn").input_ids
    (theirs,) = told.tell([([*ids, has.eos_token_id], True)])
    assert theirs.ids.tolist() == [*pocket()("the inn").input_ids, end]
    assert (theirs.starts[0], theirs.stops[0]) == ((0, 1) if bos else (-1, -1))
    spans = shared_spans(told.place([*ids, has.eos_token_id], begins=True), theirs)
    assert (spans.ours[-1], spans.theirs[-1]) == (len(ids), len(theirs.ids) - 1)  # the ends of the text
    # In the middle of a document nobody has one.
    (middle,) = told.tell([(ids[1:], False)])
    assert end not in middle.ids.tolist()
    # Where the other has none, ours has no counterpart.
    (none,) = Retelling(has, BYTES).tell([(ids, True)])
    assert none.ids.tolist() == BYTES("the inn").input_ids
    assert none.starts[0] == int(bos)


def test_special_tokens_of_one_name_stand_for_each_other_and_others_are_left_out() -> None:
    ours, theirs = (byte_tokenizer(extra=("x",)) for _ in range(2))
    ours.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|tool|>"]})
    theirs.add_special_tokens({"additional_special_tokens": ["<|tool|>", "<|user|>"]})
    theirs.eos_token = "<|user|>"
    told = Retelling(ours, theirs)
    names = ours.get_vocab()
    ids = [names["<|user|>"], *ours("ab").input_ids, names["<|tool|>"], *ours("c").input_ids]
    (found,) = told.tell([(ids, False)])
    their_names = theirs.get_vocab()
    assert found.ids.tolist() == [
        their_names["<|user|>"],
        *theirs("ab").input_ids,
        their_names["<|tool|>"],
        *theirs("c").input_ids,
    ]
    lonely = Retelling(ours, BYTES)
    (found,) = lonely.tell([(ids, False)])
    assert found.ids.tolist() == BYTES("abc").input_ids
    spans = shared_spans(lonely.place(ids, begins=False), found)
    assert spans.ours.tolist() == [1, 2, 4]


def test_text_that_is_written_like_a_special_token_is_text() -> None:
    told = Retelling(BYTES, pocket())
    ids = [BYTES.get_vocab()[letter] for letter in "<|endoftext|>"]
    (theirs,) = told.tell([(ids, False)])
    assert pocket().eos_token_id not in theirs.ids.tolist()


def test_what_a_tokenizer_rewrites_ends_what_is_common() -> None:
    told = Retelling(BYTES, composing())
    ids = BYTES("ab e\u0301 cd").input_ids
    (theirs,) = told.tell([(ids, True)])
    spans = shared_spans(told.place(ids, begins=True), theirs)
    assert spans.ours_stop.max() == len("ab ")
    assert np.array_equal(spans.ours, spans.theirs)


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    with pytest.raises(
        VocabularyError, match=r"the teacher's .* does not keep the bytes of a text .*byte-level tokenizer"
    ):
        Retelling(BYTES, word_tokenizer())
    with pytest.raises(VocabularyError, match="the student's"):
        Retelling(word_tokenizer(), BYTES)
