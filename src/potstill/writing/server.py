"""A model on an OpenAI-compatible server writes, several prompts at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from potstill.errors import PotstillError, ServerError
from potstill.writing.asking import Line, NoAnswerError, Server
from potstill.writing.prompts import Prompt
from potstill.writing.replies import PATHS, Asking, body_of, sample_of
from potstill.writing.samples import Unanswered, Written

# So many prompts in a row without an answer, and it is not the prompts.
_HOPELESS = 10


@dataclass(frozen=True)
class ServerWriter:
    """A server and what is asked of it; `concurrency` requests are on their way at once, one for each sample."""

    server: Server
    asking: Asking
    concurrency: int = 8

    def write(self, prompts: Sequence[Prompt], missing: Container[str]) -> Iterator[Written | Unanswered]:
        """What is written for each prompt, as it comes. ServerError where the server can't be used, or answers nothing any more."""
        line = Line(self.server)
        waiting: queue.SimpleQueue[Prompt] = queue.SimpleQueue()
        asked = [prompt for prompt in prompts if prompt.id in missing]
        for prompt in asked:
            waiting.put(prompt)
        found: queue.SimpleQueue[Written | Unanswered | Exception] = queue.SimpleQueue()
        # Daemons: an interruption does not wait for replies that nobody will read.
        for _ in range(min(self.concurrency, len(asked))):
            threading.Thread(target=self._work, args=(line, waiting, found), daemon=True).start()
        in_vain = 0
        try:
            for _ in asked:
                outcome = found.get()
                if isinstance(outcome, Exception):
                    raise outcome
                in_vain = in_vain + 1 if isinstance(outcome, Unanswered) else 0
                yield outcome
                if isinstance(outcome, Unanswered) and in_vain >= _HOPELESS:
                    raise ServerError(
                        f"{in_vain} prompts in a row got no answer from {self.server.url}: {outcome.reason}"
                    )
        finally:
            line.stopping.set()

    def _work(
        self,
        line: Line,
        waiting: queue.SimpleQueue[Prompt],
        found: queue.SimpleQueue[Written | Unanswered | Exception],
    ) -> None:
        while not line.stopping.is_set():
            try:
                prompt = waiting.get_nowait()
            except queue.Empty:
                return
            outcome: Written | Unanswered | Exception = RuntimeError("a thread that asks a server failed: see above")
            try:
                outcome = self._written(line, prompt)
            except PotstillError as error:
                outcome = error
                line.stopping.set()
            finally:  # the caller waits for it, whatever happens
                found.put(outcome)

    def _written(self, line: Line, prompt: Prompt) -> Written | Unanswered:
        samples, prompt_tokens, requests = [], 0, 0
        for number in range(self.asking.sampling.best_of):
            try:
                (sample, read), tries = line.ask(
                    PATHS[self.asking.endpoint], body_of(self.asking, prompt, number), sample_of
                )
            except NoAnswerError as error:
                return Unanswered(prompt.id, str(error))
            samples.append(sample)
            prompt_tokens += read
            requests += tries
        return Written(prompt.id, tuple(samples), prompt_tokens, requests)
