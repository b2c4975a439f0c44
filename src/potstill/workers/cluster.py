"""Machines that Ray has joined, or this one alone; and workers placed on them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from potstill.errors import MissingExtraError, RecipeError, ServerError

if TYPE_CHECKING:
    from ray.actor import ActorHandle

# Read by Ray as it is imported. Nothing is reported to its makers.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# On this machine alone its processes listen to nobody else (the name says where that is the default; it is read everywhere), and workers
# are no nicer than one process would be.
_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}

_SECONDS_TO_KNOCK = 10.0


@dataclass
class Crew:
    """Up to `count` workers that have the teacher `model`; each has so many processors, and accelerators (0 or 1)."""

    count: int
    model: str
    processors: int
    accelerators: int
    workers: list[ActorHandle] = field(default_factory=list)

    def another(self, kind: type, *told: object) -> ActorHandle:
        """A new worker of this kind, told the teacher's name and so on: it starts as soon as a machine has room for it."""
        import ray

        # Not restarted by Ray: a new one has to be told what the old one had.
        placed = ray.remote(num_cpus=self.processors, num_gpus=self.accelerators, max_restarts=0)(kind)
        worker = cast("ActorHandle", placed.remote(self.model, *told))
        self.workers.append(worker)
        return worker

    def dismiss(self, worker: ActorHandle) -> None:
        """Its processors and its accelerator are free for others."""
        import ray

        self.workers.remove(worker)
        ray.kill(worker)


@contextmanager
def joined(address: str | None, *, count: int, model: str) -> Iterator[Crew]:
    """A crew on the cluster at `address`, or on this machine alone, where a Ray is started for it and ended behind it.

    Raises MissingExtraError without Ray, ServerError where no cluster answers or Ray does not start here, and RecipeError for more
    workers than this machine has accelerators.
    """
    check_ray()
    if address is not None:
        _knock(address)
    os.environ.update(_QUIET if address is not None else _QUIET | _HERE)
    import ray

    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            cores = max(os.cpu_count() or 1, count)
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        # Of a machine too busy to start it in time Ray says so by Exception itself.
        if type(error) is not Exception and not isinstance(error, OSError | RuntimeError | ValueError):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        if address is not None:
            raise ServerError(
                f"something listens at {address}, and no Ray cluster lets us in there ({said}): give the address that `ray start --head` "
                "prints and, where that said that token authentication is enabled, set RAY_AUTH_MODE=token here too"
            ) from error
        raise ServerError(f"Ray did not start on this machine: {said} Start again when it is less busy") from error
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        accelerators = sum(int(machine.get("GPU", 0)) for machine in machines)
        processors = 1 if accelerators else processors_of([int(machine.get("CPU", 0)) for machine in machines], count)
        if address is None and 0 < accelerators < count:
            raise RecipeError(
                f"each worker takes one accelerator, and this machine has {accelerators}: --workers {accelerators}"
            )
        crew = Crew(count, model, processors, min(accelerators, 1))
        yield crew
    finally:
        ray.shutdown()


def check_ray() -> None:
    """MissingExtraError where Ray is not installed; nothing is imported."""
    if find_spec("ray") is None:
        raise MissingExtraError("ray", extra="ray", purpose="Sharing work among workers (--workers)")


def processors_of(machines: list[int], count: int) -> int:
    """Of each worker, where there are no accelerators: all there are, shared evenly, and no more than the largest machine has."""
    return max(1, min(sum(machines) // count, max(machines)))


def _knock(address: str) -> None:
    """ServerError where nobody listens, said at once: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal():
        raise RecipeError(f"--ray takes HOST:PORT, as `ray start --head` prints it, and got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_KNOCK).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ServerError(
            f"no Ray cluster answers at {address} ({error}): start one with `ray start --head` and give the address it prints "
            "(--ray HOST:PORT), or leave --ray out"
        ) from error
