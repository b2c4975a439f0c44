"""Numbers for Prometheus, in its text form (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SHARES = tuple(n / 20 for n in range(1, 21))


class Counter:
    """Counts up, for each set of labels; or is set to a value, as a gauge."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = (), *, kind: str = "counter") -> None:
        self.name, self.help_text, self.labels, self.kind = name, help_text, tuple(labels), kind
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """More of it."""
        self.values[labels] = self.values.get(labels, 0.0) + by

    def put(self, value: float, *labels: str) -> None:
        """So much of it."""
        self.values[labels] = value

    def lines(self) -> Iterator[str]:
        """As Prometheus reads it."""
        yield from _heading(self.name, self.help_text, self.kind)
        for values, value in sorted(self.values.items()):
            yield f"{self.name}{_braces(self.labels, values)} {value:.12g}"


class Histogram:
    """Counts values up to each bound, for each set of labels."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name, self.help_text, self.bounds, self.labels = name, help_text, tuple(bounds), tuple(labels)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def see(self, value: float, *labels: str) -> None:
        """One more."""
        counts = self._counts.setdefault(labels, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + value

    def lines(self) -> Iterator[str]:
        """As Prometheus reads it: buckets count all that is at most their bound."""
        yield from _heading(self.name, self.help_text, "histogram")
        names = (*self.labels, "le")
        for values, counts in sorted(self._counts.items()):
            below = 0
            for bound, count in zip((*map("{:g}".format, self.bounds), "+Inf"), counts, strict=True):
                below += count
                yield f"{self.name}_bucket{_braces(names, (*values, bound))} {below}"
            yield f"{self.name}_sum{_braces(self.labels, values)} {self._sums[values]:.12g}"
            yield f"{self.name}_count{_braces(self.labels, values)} {below}"


class Metrics:
    """All numbers of a door."""

    def __init__(self) -> None:
        self.requests = Counter(
            "potstill_requests_total",
            "Requests for an answer, by who answered (nobody, where it was refused).",
            ("mode", "answered_by", "reason", "status"),
        )
        self.seconds = Histogram(
            "potstill_request_seconds", "From a request to the end of its answer.", _SECONDS, ("answered_by",)
        )
        self.first_seconds = Histogram(
            "potstill_first_byte_seconds", "From a request to the beginning of its answer.", _SECONDS, ("answered_by",)
        )
        self.tokens = Counter(
            "potstill_tokens_total", "Tokens of answers that were sent, as engines count them.", ("answered_by", "kind")
        )
        self.in_flight = Counter("potstill_in_flight", "Requests that an engine works on.", ("engine",), kind="gauge")
        self.waiting = Counter("potstill_waiting", "Requests that wait for an engine.", ("engine",), kind="gauge")
        self.up = Counter(
            "potstill_engine_up", "1 where the engine's last request went well.", ("engine",), kind="gauge"
        )
        self.failures = Counter("potstill_engine_failures_total", "Engines that failed, and how.", ("engine", "kind"))
        self.broken = Counter("potstill_streams_broken_total", "Answers that broke off after their beginning.")
        self.gone = Counter("potstill_clients_gone_total", "Clients that left before their answer's end.")
        self.confidence = Histogram("potstill_confidence", "How sure the policy was of the student's answers.", _SHARES)
        self.psi = Counter(
            "potstill_drift_psi", "Population stability index of what the last confidences are made of.", kind="gauge"
        )
        self.ks = Counter("potstill_drift_ks", "Kolmogorov-Smirnov distance of the same.", kind="gauge")
        self.alarm = Counter(
            "potstill_drift_alarm", "1 where traffic is not what the policy was calibrated on.", kind="gauge"
        )

    def text(self) -> str:
        """What is shown at /metrics."""
        lines = [line for one in vars(self).values() for line in one.lines()]
        return "\n".join(lines) + "\n"


def _heading(name: str, help_text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _braces(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}" if names else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
