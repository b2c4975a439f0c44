"""Two tokenizations of one text, and the smallest spans at both of whose ends both have a token's boundary.

Places in a context are counted in units: a byte of text is one, and so is a token that stands for none (BOS, EOS). Bytes that are no
character, as where a window cut one in two, are units that no token of the other tokenizer covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from potstill.data import spelled_tokens
from potstill.errors import VocabularyError

Ints = NDArray[np.int64]

# What a tokenizer that keeps the bytes of a text gives back: spaces in front, behind and in rows, case, line ends, accents, emoji.
_PROBES = ("  Two  spaces,\tTabs\r\n\n    and CASE ", "naïve Zürich – 東京 🙂👩🏽‍🚀 ﬁ", "x")


@dataclass(frozen=True)
class Spelling:
    """A tokenizer whose tokens are the bytes of the text.

    spelled      the bytes of each token id; none for special ones
    front        what it puts in front of a text (BOS)
    adds_space   whether it invents a space at the beginning of a text (SentencePiece)
    """

    tokenizer: PreTrainedTokenizerBase
    spelled: tuple[bytes, ...]
    front: tuple[int, ...]
    adds_space: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, *, whose: str) -> Spelling:
        """VocabularyError where the text can't be had back from the tokens, byte by byte."""
        if not tokenizer.is_fast:
            raise VocabularyError(f"the {whose}'s {type(tokenizer).__name__} is not a fast tokenizer: use one that is")
        spelled = tuple(spelled_tokens(tokenizer))
        plain = [tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in _PROBES]
        found = [b"".join(spelled[token] for token in ids) for ids in plain]
        adds_space = found[-1] == b" x"
        for text, bytes_of_text in zip(_PROBES, found, strict=True):
            if bytes_of_text not in (text.encode(), b" " * adds_space + text.encode()):
                shown = bytes_of_text.decode("utf-8", "replace")
                raise VocabularyError(
                    f"the {whose}'s {type(tokenizer).__name__} does not keep the bytes of a text ({text!r} becomes {shown!r}), so its "
                    "tokens have no place in it: use a model with a byte-level tokenizer, or one with byte fallback"
                )
        ids = tokenizer(_PROBES[-1]).input_ids
        front = next((n for n in range(len(ids)) if ids[n : n + len(plain[-1])] == plain[-1]), 0)
        return cls(tokenizer, spelled, tuple(ids[:front]), adds_space)

    def is_text(self, token: int) -> bool:
        """Whether the token stands for bytes."""
        return token < len(self.spelled) and bool(self.spelled[token])


@dataclass(frozen=True)
class Placed:
    """Tokens of a context with the units [start, stop) of each; -1 where a token has no place among the other's."""

    ids: Ints
    starts: Ints
    stops: Ints


@dataclass(frozen=True)
class Spans:
    """Span k is the tokens [ours[k], ours_stop[k]) of the one tokenization and [theirs[k], theirs_stop[k]) of the other."""

    ours: Ints
    ours_stop: Ints
    theirs: Ints
    theirs_stop: Ints

    def where(self, mask: NDArray[np.bool_]) -> Spans:
        """These of them alone."""
        return Spans(self.ours[mask], self.ours_stop[mask], self.theirs[mask], self.theirs_stop[mask])


def shared_spans(ours: Placed, theirs: Placed) -> Spans:
    """The smallest spans with a boundary of both at both ends, in order, each covered by tokens of both without a gap."""
    starts, stops = np.intersect1d(ours.starts, theirs.starts), np.intersect1d(ours.stops, theirs.stops)
    bounds = np.union1d(starts, stops)
    bounds = bounds[bounds >= 0]
    first, last = bounds[:-1], bounds[1:]
    # Between neighbouring boundaries lies a span, unless one of the two has no token there, or a gap.
    is_covered = np.isin(first, starts) & np.isin(last, stops)
    first, last = first[is_covered], last[is_covered]
    found = []
    for placed in (ours, theirs):
        begin, end = _index(placed.starts, first), _index(placed.stops, last) + 1
        found.append((begin, end, np.concatenate([[0], np.cumsum(placed.stops - placed.starts)])))
    is_whole = np.ones(len(first), dtype=bool)
    for begin, end, widths in found:
        is_whole &= widths[end] - widths[begin] == last - first
    return Spans(*(column[is_whole] for begin, end, _ in found for column in (begin, end)))


def _index(column: Ints, wanted: Ints) -> Ints:
    """Where in the column each of the wanted values stands; all of them do."""
    order = np.argsort(column, kind="stable")
    return order[np.searchsorted(column, wanted, sorter=order)]


class Retelling:
    """The tokens of one tokenizer, told again in another's."""

    def __init__(self, ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> None:
        """From tokens of `ours` to tokens of `theirs`. VocabularyError where one of them does not keep the bytes of a text."""
        self.ours, self.theirs = Spelling.of(ours, whose="student"), Spelling.of(theirs, whose="teacher")
        self.specials = _special_tokens(self.ours, self.theirs)

    def place(self, ids: Sequence[int], *, begins: bool) -> Placed:
        """Our tokens with their places. `begins`: the context is the beginning of a text."""
        lengths = np.array([max(1, len(one)) for one in self._spelled(ids, begins=begins)], dtype=np.int64)
        stops = np.cumsum(lengths)
        return Placed(np.array(ids, dtype=np.int64), stops - lengths, stops)

    def tell(self, contexts: Sequence[tuple[Sequence[int], bool]]) -> list[Placed]:
        """Each context (our ids, whether it begins a text) in their tokens.

        It begins with their BOS where ours begins a text and they have one. Special tokens that both know stand for each other, others
        are left out. They read the characters alone: bytes that are none are left out.
        """
        plans = [list(self._parts(ids, begins=begins)) for ids, begins in contexts]
        texts = [part.text for plan in plans for part in plan if part.text]
        # Text is text: what looks like a special token in it is none.
        told = iter(
            self.theirs.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
            if texts
            else []
        )
        return [self._placed(plan, told) for plan in plans]

    def _spelled(self, ids: Sequence[int], *, begins: bool) -> list[bytes]:
        spelled = [self.ours.spelled[token] if self.ours.is_text(token) else b"" for token in ids]
        first = next((n for n, spelling in enumerate(spelled) if spelling), None)
        if begins and self.ours.adds_space and first is not None:
            spelled[first] = spelled[first].removeprefix(b" ")
        return spelled

    def _parts(self, ids: Sequence[int], *, begins: bool) -> Iterator[_Part]:
        """What the other tokenizer is to read, in order: special tokens, and text between them."""
        spelled = self._spelled(ids, begins=begins)
        unit = position = 0
        if begins and ids:
            is_ours = not self.ours.is_text(ids[0]) and ids[0] in (*self.ours.front, self.ours.tokenizer.bos_token_id)
            for number, token in enumerate(self.theirs.front):
                is_last = number == len(self.theirs.front) - 1
                yield _Part(0 if is_ours and is_last else -1, tokens=(token,))
            unit = position = int(is_ours)
        while position < len(ids):
            if not spelled[position]:
                token = self.specials.get(int(ids[position]))
                if token is not None:
                    yield _Part(unit, tokens=(token,))
                unit, position = unit + 1, position + 1
                continue
            end = next((n for n in range(position, len(ids)) if not spelled[n]), len(ids))
            raw = b"".join(spelled[position:end])
            for start, text in _characters(raw):
                yield _Part(unit + start, text=text)
            unit, position = unit + len(raw), end

    def _placed(self, plan: list[_Part], told: Iterator[list[int]]) -> Placed:
        ids: list[int] = []
        starts: list[int] = []
        stops: list[int] = []
        for part in plan:
            if not part.text:
                ids += part.tokens
                starts.append(part.unit)
                stops.append(part.unit + 1 if part.unit >= 0 else -1)
                continue
            tokens = next(told)
            wanted, place = part.text.encode(), 0
            spelled = [self.theirs.spelled[token] for token in tokens]
            if self.theirs.adds_space and spelled and b"".join(spelled) != wanted:
                spelled[0] = spelled[0].removeprefix(b" ")
            # A tokenizer that rewrites some characters has a place as far as it hasn't.
            agreed = _num_agreeing(b"".join(spelled), wanted)
            for token, spelling in zip(tokens, spelled, strict=True):
                has_place = bool(spelling) and place + len(spelling) <= agreed
                ids.append(token)
                starts.append(part.unit + place if has_place else -1)
                place += len(spelling)
                stops.append(part.unit + place if has_place else -1)
        return Placed(*(np.array(column, dtype=np.int64) for column in (ids, starts, stops)))


@dataclass(frozen=True)
class _Part:
    """Special tokens at a unit (-1: at none), or text from there on."""

    unit: int
    text: str = ""
    tokens: tuple[int, ...] = ()


def _num_agreeing(one: bytes, other: bytes) -> int:
    if one == other:
        return len(one)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _characters(raw: bytes) -> Iterator[tuple[int, str]]:
    """(place, text) of the whole characters in it, in stretches."""
    start = 0
    while start < len(raw):
        try:
            yield start, raw[start:].decode("utf-8")
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield start, raw[start : start + error.start].decode("utf-8")
            start += error.end


def _special_tokens(ours: Spelling, theirs: Spelling) -> dict[int, int]:
    """Which of theirs stands for which of ours: the one of the same name, or the other end of text."""
    found = {}
    ends = ours.tokenizer.eos_token_id, theirs.tokenizer.eos_token_id
    if None not in ends:
        found[int(str(ends[0]))] = int(str(ends[1]))
    known = theirs.tokenizer.get_vocab()
    for name, token in ours.tokenizer.get_vocab().items():
        if not ours.is_text(token) and name in known and not theirs.is_text(known[name]):
            found[token] = known[name]
    return found
