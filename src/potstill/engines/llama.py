"""llama.cpp in this process (the package xllamacpp), behind its own HTTP server on a free port of this machine alone."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from potstill.errors import MissingExtraError, ModelError, ServerError

_LEAST_BATCH = 512
# Seconds: of a long prompt on a slow machine.
_PATIENCE = 600.0
# The server is on this machine: no proxy stands between.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LlamaServer:
    """llama.cpp with a GGUF file; runs between `with` and its end, or between `start` and `stop`.

    `url` answers OpenAI's paths (`/v1/chat/completions`, `/v1/completions`, `/v1/models`) and llama.cpp's own (`/completion`,
    `/tokenize`, `/health`) to whoever has its `key`, drawn anew for each (Authorization: Bearer KEY); without it only to say that it
    lives. Nothing outside this machine reaches it.

    path      the model
    context   tokens that one request may read and write together
    threads   of the processor; every one that this process may use, when not given
    draft     a smaller model of the same tokens that writes ahead (speculative decoding); `timings` of an answer count its hits
    draft_tokens  that it writes ahead at a time
    parallel  requests that are worked on at once; others wait
    embeddings  also answer `/embedding` with the hidden state of every token: takes `context` times the vocabulary of memory
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = 2048,
        threads: int | None = None,
        draft: Path | None = None,
        draft_tokens: int = 4,
        parallel: int = 1,
        embeddings: bool = False,
    ) -> None:
        self.path, self.context, self.draft, self.parallel, self.embeddings = path, context, draft, parallel, embeddings
        self.draft_tokens = draft_tokens
        self.threads = threads or _own_processors()
        self.key = secrets.token_urlsafe(32)
        self._server: Any = None

    def __enter__(self) -> LlamaServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT. ServerError where it isn't running."""
        if self._server is None:
            raise ServerError(f"the server of {self.path} isn't running: use it inside `with`, or call start()")
        return str(self._server.listening_address)

    def start(self) -> None:
        """Load the model and answer. MissingExtraError without xllamacpp, ModelError for a file that llama.cpp can't run."""
        for file in (self.path, self.draft):
            if file is not None and not file.is_file():
                raise ModelError(f"there is no file {file}: give a GGUF file")
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtraError("xllamacpp", extra="llama", purpose="Running a GGUF file in llama.cpp")
        engine: Any = import_module("xllamacpp")
        try:
            self._server = engine.Server(self._settings(engine))
        except RuntimeError as error:
            files = str(self.path) if self.draft is None else f"{self.path} with the draft {self.draft}"
            raise ModelError(
                f"llama.cpp can't run {files} ({error}): the file is damaged, of an architecture that this version doesn't know, or too "
                "big for the memory"
            ) from error
        # Ended before its loop has begun, it would never end; and the first answer takes longer than others.
        self.ask("/completion", {"prompt": [0], "n_predict": 1})

    def stop(self) -> None:
        """End it and free its memory; requests on their way get no answer."""
        self._server = None

    def ask(self, path: str, body: Mapping[str, object]) -> Any:
        """The answer to a request, decoded. ServerError where it is refused."""
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        try:
            with _DIRECT.open(request, timeout=_PATIENCE) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:300]
            raise ServerError(f"llama.cpp refuses {path} for {self.path.name} ({error.code}): {said}") from error
        except OSError as error:
            raise ServerError(f"llama.cpp with {self.path.name} doesn't answer {path}: {error}") from error

    def _settings(self, engine: Any) -> Any:
        settings = engine.CommonParams()
        settings.model.path = str(self.path)
        settings.hostnames, settings.port, settings.api_keys = ["127.0.0.1"], 0, [self.key]
        settings.n_parallel, settings.n_ctx = self.parallel, self.context * self.parallel
        settings.n_ubatch = max(_LEAST_BATCH, self.context) if self.embeddings else _LEAST_BATCH
        settings.n_batch = max(settings.n_batch, settings.n_ubatch)
        for threads in (settings.cpuparams, settings.cpuparams_batch):
            threads.n_threads = self.threads
        # Neither notes on the terminal, nor a page for people, nor a store of old prompts that grows to gigabytes, nor other settings
        # than these where memory is short.
        settings.verbosity, settings.ui, settings.cache_ram_mib, settings.fit_params = -1, False, 0, False
        if self.embeddings:
            settings.embedding, settings.pooling_type = True, engine.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        if self.draft is not None:
            settings.speculative.draft.mparams.path = str(self.draft)
            settings.speculative.draft.n_max, settings.speculative.draft.n_min = self.draft_tokens, 0
            settings.speculative.draft.p_min = 0.0
            kinds = engine.common_speculative_type
            settings.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        return settings


def _own_processors() -> int:
    """How many processors this process may use: not those of the whole machine where it is kept to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
