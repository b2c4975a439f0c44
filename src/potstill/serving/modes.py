"""Who answers: one engine, or the student where it is sure and its teacher where it is not."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from potstill.errors import DataError
from potstill.routing import AnsweredBy, Decision, DriftAlarm, Policy, signals_of
from potstill.serving.asking import Asked
from potstill.serving.logprobs import asking_for, tokens_of
from potstill.serving.metrics import Metrics
from potstill.serving.refusals import RefusedError
from potstill.serving.upstreams import Part, Upstream, UpstreamError

ModeName = Literal["student", "teacher", "speculative", "routed"]
TeacherDown = Literal["error", "student"]
_LOG = logging.getLogger("potstill.serving")


@dataclass(frozen=True)
class Verdict:
    """Who answers and why.

    reason      only engine: there is no other. asked for: the client named it. speculative: the student writes ahead, the teacher checks
                confident, unsure: by the policy. nothing promised: the policy has no threshold. not judged: no log-probabilities to go by
                student failed, teacher failed: the other one answers instead
    confidence  the policy's, of the student's answer
    """

    answered_by: AnsweredBy
    reason: str
    confidence: float | None = None
    threshold: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """x-potstill-...: for whoever reads no bodies."""
        found = {"answered-by": self.answered_by, "reason": self.reason}
        found |= {} if self.confidence is None else {"confidence": f"{self.confidence:.4f}"}
        found |= {} if self.threshold is None else {"threshold": f"{self.threshold:.4f}"}
        return {f"x-potstill-{name}": value for name, value in found.items()}

    @property
    def field(self) -> dict[str, object]:
        """The same in the answer, or in its first chunk."""
        return {
            "answered_by": self.answered_by,
            "reason": self.reason,
            "confidence": self.confidence,
            "threshold": self.threshold,
        }


class Parts:
    """What an engine says, in batches of what comes together; the first is here already, so it has begun to answer."""

    def __init__(self, first: list[Part], rest: AsyncGenerator[list[Part]] | None = None) -> None:
        self._first: list[Part] | None = first
        self._rest = rest

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> list[Part]:
        if (first := self._first) is not None:
            self._first = None
            return first
        if self._rest is None:
            raise StopAsyncIteration
        return await anext(self._rest)

    async def aclose(self) -> None:
        """Listen no longer; an engine that still writes is left."""
        if self._rest is not None:
            await self._rest.aclose()


@dataclass(frozen=True)
class Answer:
    """Who answers, and what."""

    verdict: Verdict
    parts: Parts


@runtime_checkable
class Mode(Protocol):
    """Decides who answers."""

    name: ModeName
    engines: Mapping[AnsweredBy, Upstream]

    async def answer(self, asked: Asked) -> Answer:
        """RefusedError where nobody does."""
        ...


class OneEngine:
    """All is answered by one engine: a student, a teacher, or a teacher for whom a student writes ahead."""

    def __init__(self, name: ModeName, engine: Upstream) -> None:
        self.name: ModeName = name
        self.engines: Mapping[AnsweredBy, Upstream] = {engine.role: engine}
        self._engine = engine

    async def answer(self, asked: Asked) -> Answer:
        """Its answer, as it comes."""
        reason = "speculative" if self.name == "speculative" else "asked for" if asked.wants else "only engine"
        return Answer(Verdict(self._engine.role, reason), await _begun(self._engine, asked))


class Cascade:
    """The student answers; where a policy is not sure of what it said, the teacher does instead.

    What the student says is held back until it is complete and judged. A teacher that fails leaves the client with an error, or with
    `teacher_down` "student" with what the student said. A student that fails leaves all to the teacher.
    """

    def __init__(
        self,
        student: Upstream,
        teacher: Upstream,
        policy: Policy,
        metrics: Metrics,
        *,
        teacher_down: TeacherDown = "error",
    ) -> None:
        self.name: ModeName = "routed"
        self.engines: Mapping[AnsweredBy, Upstream] = {"student": student, "teacher": teacher}
        self.policy, self._metrics, self._teacher_down = policy, metrics, teacher_down
        self._alarm = DriftAlarm(policy.histogram)
        self._is_alarmed = False

    async def answer(self, asked: Asked) -> Answer:
        """The student's answer as a whole, or the teacher's as it comes."""
        if asked.wants is not None:
            return Answer(Verdict(asked.wants, "asked for"), await _begun(self.engines[asked.wants], asked))
        if self.policy.threshold is None:
            return await self._teacher_alone(asked)
        try:
            heard = await self._student_says(asked)
        except RefusedError as refusal:
            if refusal.code == "busy":
                raise
            # Too long for the student, perhaps, and not for the teacher.
            return await self._teacher_instead(asked, refusal)
        verdict = self._judged(asked, heard)
        if verdict.answered_by == "teacher":
            try:
                return Answer(verdict, await _begun(self.engines["teacher"], asked))
            except RefusedError as refusal:
                if self._teacher_down == "error" or not _is_failure(refusal):
                    raise
                verdict = Verdict("student", "teacher failed", verdict.confidence, verdict.threshold)
        return Answer(verdict, Parts(heard))

    async def _teacher_alone(self, asked: Asked) -> Answer:
        try:
            return Answer(Verdict("teacher", "nothing promised"), await _begun(self.engines["teacher"], asked))
        except RefusedError as refusal:
            if self._teacher_down == "error" or not _is_failure(refusal):
                raise
            return Answer(Verdict("student", "teacher failed"), await _begun(self.engines["student"], asked))

    async def _student_says(self, asked: Asked) -> list[Part]:
        body = asking_for(asked, self.policy.top_logprobs)
        said = self.engines["student"].parts(asked.path, body)
        heard = [part async for batch in said for part in batch]
        if not heard:
            raise UpstreamError("student", "no choices", "answers with nothing", status=502)
        return heard

    async def _teacher_instead(self, asked: Asked, of_student: RefusedError) -> Answer:
        try:
            parts = await _begun(self.engines["teacher"], asked)
        except RefusedError as of_teacher:
            # Both refuse: a mistake of the client is worth more to it than an engine's absence.
            raise of_teacher if _is_failure(of_student) or not _is_failure(of_teacher) else of_student from of_teacher
        return Answer(Verdict("teacher", "student failed"), parts)

    def _judged(self, asked: Asked, heard: list[Part]) -> Verdict:
        """By the least sure of its choices, where there are several. The alarm sees the first: of several the least is always lower."""
        try:
            tokens = tokens_of(heard, self.policy.top_logprobs)
            decisions = [self.policy.decide(signals_of(tokens[one]), prompt=asked.prompt) for one in sorted(tokens)]
        except DataError as error:
            _LOG.debug("an answer that can't be judged: %s", error)
            return Verdict("teacher", "not judged", threshold=self.policy.threshold)
        decision = min(decisions, key=lambda one: one.confidence)
        self._metrics.confidence.see(decision.confidence)
        self._notice(decisions[0])
        reason = "confident" if decision.answer_by == "student" else "unsure"
        return Verdict(decision.answer_by, reason, decision.confidence, decision.threshold)

    def _notice(self, decision: Decision) -> None:
        if (drift := self._alarm.see(decision.score)) is None:
            return
        self._metrics.psi.put(drift.psi)
        self._metrics.ks.put(drift.ks)
        self._metrics.alarm.put(float(drift.fires))
        if drift.fires and not self._is_alarmed:
            _LOG.warning("traffic is not what the policy was calibrated on (%s): calibrate again", drift.reason)
        self._is_alarmed = drift.fires


async def _begun(engine: Upstream, asked: Asked) -> Parts:
    """An answer that has begun, so that what fails before it fails here."""
    rest = engine.parts(asked.path, asked.body)
    try:
        return Parts(await anext(rest), rest)
    except StopAsyncIteration:
        raise UpstreamError(engine.role, "no choices", "answers with nothing", status=502) from None


def _is_failure(refusal: RefusedError) -> bool:
    """Of an engine, or of a line before it; not of the client."""
    return refusal.status >= 500 or refusal.status == 429
