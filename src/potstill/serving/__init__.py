"""Models put to work: a door that speaks OpenAI's API, in front of engines that run them.

In: one engine or two, and perhaps a `Policy`. Out: answers, with who gave them and why.

    metrics = Metrics()
    with mode_of("student", {"student": Served("student.gguf")}, Running(), metrics) as mode:
        listen(door_app(Door(mode, metrics)), open_port("127.0.0.1", 8000), grace_seconds=30)

app.py        door_app: what is at which path, and a request from its body to its last byte
asking.py     what a client asks, checked
modes.py      OneEngine, Cascade: who answers
upstreams.py  Upstream: an engine behind OpenAI's API; failures, time limits
logprobs.py   log-probabilities: asked for, judged by, shown as wished
sse.py        server-sent events, read and written
limits.py     Limits, Timeouts, Line: how much is let in
access.py     Guard: the key, the log, the counts
metrics.py    Metrics: numbers for Prometheus
refusals.py   RefusedError: what a client is told instead of an answer
page.py       the page to chat on
starting.py   mode_of: engines started and ended
listening.py  listen: the port, and an end in peace
"""

from potstill.serving.app import Door, door_app
from potstill.serving.limits import Limits, Line, Timeouts
from potstill.serving.listening import listen, open_port, warning_of
from potstill.serving.metrics import Metrics
from potstill.serving.modes import Cascade, Mode, ModeName, OneEngine, TeacherDown
from potstill.serving.refusals import RefusedError
from potstill.serving.starting import Running, Served, gguf_file, mode_of
from potstill.serving.upstreams import Upstream, UpstreamError

__all__ = [
    "Cascade",
    "Door",
    "Limits",
    "Line",
    "Metrics",
    "Mode",
    "ModeName",
    "OneEngine",
    "RefusedError",
    "Running",
    "Served",
    "TeacherDown",
    "Timeouts",
    "Upstream",
    "UpstreamError",
    "door_app",
    "gguf_file",
    "listen",
    "mode_of",
    "open_port",
    "warning_of",
]
