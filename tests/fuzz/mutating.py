"""Damage, drawn from a seed: what bad disks, half-written files, other tools and other people make of our input."""

from __future__ import annotations

import random
import re
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from potstill.errors import PotstillError

# Numbers and words that break readers: limits of types, what is no number, what is deep, what looks like a path or a type.
_NUMBERS = (
    b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"1.5", b"true", b"9" * 400, b"2147483648", b"9223372036854775808", b"0x10", b"-0",
)  # fmt: skip
_WORDS = (
    b"null", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", "\u202e\u2028".encode(), b"%s%n",
    b"../../../etc/passwd", b"__import__('os')", b"[" * 300, b"[" * 20_000, b"nan", b"inf", b"'", b'"""', b"#", b"=", b"\t", b"\r\n",
)  # fmt: skip
_SECONDS, _BYTES = 20, 4 * 2**30


def mutated(data: bytes, draw: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to five wounds; `others` may be grafted in."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5))):
        data = draw.choice(_WOUNDS)(data, draw)
        if others and draw.random() < 0.1:
            data = _graft(data, draw.choice(others), draw)
    return data


def _span(data: bytes, draw: random.Random) -> tuple[int, int]:
    at = draw.randrange(len(data) + 1)
    return at, min(len(data), at + draw.choice((1, 2, 4, 8, 16, 64, 256)))


def _flip(data: bytes, draw: random.Random) -> bytes:
    if not data:
        return data
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def _noise(data: bytes, draw: random.Random) -> bytes:
    start, end = _span(data, draw)
    return data[:start] + draw.randbytes(end - start) + data[end:]


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _drop(data: bytes, draw: random.Random) -> bytes:
    start, end = _span(data, draw)
    return data[:start] + data[end:]


def _double(data: bytes, draw: random.Random) -> bytes:
    start, end = _span(data, draw)
    return data[:end] + data[start:end] * draw.choice((1, 1, 3, 50)) + data[end:]


def _swap(data: bytes, draw: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_span(data, draw), _span(data, draw)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _word(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(_WORDS + _NUMBERS) + data[at:]


def _number(data: bytes, draw: random.Random) -> bytes:
    """A number that is written out becomes another."""
    places = list(re.finditer(rb"-?\d+(\.\d+)?", data[:20_000]))
    if not places:
        return _word(data, draw)
    place = draw.choice(places)
    return data[: place.start()] + draw.choice(_NUMBERS) + data[place.end() :]


def _value(data: bytes, draw: random.Random) -> bytes:
    """What stands between quotation marks becomes another kind of value."""
    places = list(re.finditer(rb'"[^"\n]{0,40}"', data[:20_000]))
    if not places:
        return _word(data, draw)
    place = draw.choice(places)
    return data[: place.start()] + draw.choice((*_WORDS, *_NUMBERS, b'"other"')) + data[place.end() :]


def _size(data: bytes, draw: random.Random) -> bytes:
    """A length or offset of four or eight bytes becomes an extreme one; most lie near the beginning."""
    width = draw.choice((4, 8))
    if len(data) < width:
        return data
    at = (
        draw.randrange(len(data) - width + 1) if draw.random() < 0.5 else draw.randrange(min(64, len(data) - width + 1))
    )
    number = draw.choice(
        (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1, len(data), len(data) + 1)
    )
    return data[:at] + (number % 2 ** (8 * width)).to_bytes(width, "little") + data[at + width :]


def _graft(data: bytes, other: bytes, draw: random.Random) -> bytes:
    start, end = _span(other, draw)
    at = draw.randrange(len(data) + 1)
    return data[:at] + other[start:end] + data[at:]


_WOUNDS = (_flip, _noise, _cut, _drop, _double, _swap, _word, _number, _number, _value, _value, _size)


@dataclass(frozen=True)
class Outcome:
    """Of so many cases: how many were read all the same, and how many refused in a message."""

    read: int
    refused: int


def fuzz(
    seeds: Sequence[bytes],
    reads: Callable[[bytes], object],
    *,
    cases: int,
    first: int = 0,
    refuses: tuple[type[Exception], ...] = (PotstillError,),
) -> Outcome:
    """`reads` on so many damaged copies of `seeds`. AssertionError, with the damaged bytes, for any exception that is none of ours, a case
    that takes the processor more than 20 seconds, or 4 GiB more memory."""
    read = refused = 0
    with _memory_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + cases):
            draw = random.Random(number)
            data = mutated(draw.choice(seeds), draw, seeds)
            try:
                with _time_limit():
                    reads(data)
                read += 1
            except refuses as refusal:
                if not str(refusal).strip():
                    raise AssertionError(f"case {number}: refused without a word: {data!r}") from refusal
                refused += 1
            except Exception as error:  # noqa: BLE001 - any at all is what is looked for
                told = "".join(traceback.format_exception(error)[-6:])
                raise AssertionError(f"case {number}: {type(error).__name__} for {data[:3_000]!r}\n{told}") from None
    return Outcome(read, refused)


class TooLongError(Exception):
    """A case hung."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"more than {_SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _memory_limit() -> Iterator[None]:
    """What asks for more gets a MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + _BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
