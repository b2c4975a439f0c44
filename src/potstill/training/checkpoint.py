"""Everything a killed run needs to go on bit for bit. safetensors and JSON only; a checkpoint exists whole or not at all.

The data need no cursor beyond the step number: the batch of a step is a function of the step. Only what the student wrote to learn
from is kept with it, since the student that wrote it has changed. Kept are the two newest, so that a disk that fills up while one is
written leaves the other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from potstill.checks import check_of_file, check_of_json
from potstill.errors import RunDirectoryError
from potstill.training.sharding import divided_as, whole
from potstill.training.watching import Watch

_KEPT, _VERSION = 2, 2
_WRITTEN, _AVERAGE = "written.safetensors", "average.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: Watch,
    *,
    written: Mapping[str, Tensor] | None = None,
    average: nn.Module | None = None,
) -> Path:
    """Write the state after `step` optimizer steps below `folder`; RunDirectoryError when the disk is full.

    All processes call it, because weights that are divided among them are gathered; the main one writes.

    written  text of the student's own that steps to come learn from
    average  a teacher that is the student's average
    """
    done = folder / f"step-{step:08d}"
    weights, moments = _gathered(_weights(student)), _gathered(_optimizer_tensors(student, optimizer))
    if not PartialState().is_main_process:
        return done
    part = folder / f"{done.name}.part-{os.getpid()}"
    try:
        part.mkdir(parents=True, exist_ok=True)
        save_file(weights, part / "student.safetensors")
        save_file(moments, part / "optimizer.safetensors")
        save_file(_random_state(), part / "random.safetensors")
        if written is not None:
            save_file(dict(written), part / _WRITTEN)
        if average is not None:
            save_file(_weights(average), part / _AVERAGE)
        state = {"version": _VERSION, "step": step, "watch": watch.state()}
        checks = {file.name: check_of_file(file) for file in sorted(part.iterdir())}
        state |= {"checks": checks | {"state": _check_of_state(state)}}
        (part / "state.json").write_text(json.dumps(state))
        if done.exists():
            shutil.rmtree(done)
        part.replace(done)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunDirectoryError(
            f"can't write the checkpoint of step {step} to {folder}: {reason}. "
            f"{_what_is_kept(folder)} Free some space and start the same command again: it goes on from there"
        ) from error
    # Older ones, and what a killed process had begun: only one process writes here.
    for old in [*sorted(folder.glob("step-????????"))[:-_KEPT], *folder.glob("step-*.part-*")]:
        shutil.rmtree(old, ignore_errors=True)
    return done


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint below `folder`."""
    whole = [path for path in sorted(folder.glob("step-????????")) if (path / "state.json").exists()]
    return whole[-1] if whole else None


def newest_step(folder: Path) -> int:
    """How many steps a run that goes on from this folder has done already."""
    newest = newest_checkpoint(folder)
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def load_checkpoint_(
    path: Path,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: Watch,
    *,
    average: nn.Module | None = None,
) -> int:
    """Put the saved state into student, optimizer, watch, the random generators and the student's average; the number of steps done."""
    try:
        weights = load_file(path / "student.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        random = load_file(path / "random.safetensors")
        averaged = {} if average is None else load_file(path / _AVERAGE)
        state = json.loads((path / "state.json").read_text())
        step = _checked_step(path, state)
        watch.restore(state["watch"])
    except (OSError, ValueError, TypeError, RecursionError, KeyError, SafetensorError) as error:
        raise RunDirectoryError(
            f"the checkpoint {path} can't be read ({error}): delete that folder and start again. The run goes on from the one "
            "before, if there is one"
        ) from error
    for model, saved in ((student, weights), (average, averaged)):
        if model is not None:
            _fill_(model, saved, path)
    for name, parameter in student.named_parameters():
        prefix = f"{name}/"
        saved = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
        if saved:
            optimizer.state[parameter] = {key: divided_as(value, parameter) for key, value in saved.items()}
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return step


def _checked_step(path: Path, state: dict) -> int:
    """How many steps are done. ValueError where a file is not the one that was written."""
    if state["version"] != _VERSION:
        raise ValueError(f"it is of version {state['version']}, and this potstill goes on from {_VERSION}")
    files = [name for name in state["checks"] if name != "state"]
    found = {name: check_of_file(path / name) for name in files} | {"state": _check_of_state(state)}
    if changed := [name for name, check in state["checks"].items() if found[name] != check]:
        raise ValueError(f"{changed[0]} is not what was written")
    if path.name != f"step-{state['step']:08d}":
        raise ValueError(f"it says step {state['step']}")
    return state["step"]


def _check_of_state(state: Mapping[str, object]) -> str:
    return check_of_json([state["step"], state["watch"]])


def load_written(path: Path) -> dict[str, Tensor] | None:
    """The text of the student's own in a checkpoint; None where there is none."""
    if not (path / _WRITTEN).exists():
        return None
    try:
        return load_file(path / _WRITTEN)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(
            f"the checkpoint {path} can't be read ({error}): delete that folder and start again"
        ) from error


def _fill_(model: nn.Module, saved: dict[str, Tensor], path: Path) -> None:
    own = _weights(model)
    if saved.keys() != own.keys() or any(saved[name].shape != own[name].shape for name in own):
        raise RunDirectoryError(f"the checkpoint {path} is of another student: give this run a folder of its own")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(divided_as(saved[name], tensor))


def _weights(student: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once) and persistent buffers."""
    seen: set[int] = set()
    once = {name for name, _ in student.named_parameters()}
    twice = {name for name, _ in student.named_parameters(remove_duplicate=False)} - once
    kept = {}
    for name, tensor in student.state_dict().items():
        # Of a divided tensor a process may hold nothing, which has no place of its own; its names say which are one.
        place = 0 if isinstance(tensor, DTensor) else tensor.data_ptr()
        if name in twice or (place in seen and tensor.numel()):
            continue
        if place:
            seen.add(place)
        kept[name] = tensor
    return kept


def _gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of them whole, in the same order in every process; what was divided comes to the host's memory, one at a time."""
    return {name: whole(one).cpu() if isinstance(one, DTensor) else one for name, one in tensors.items()}


def _optimizer_tensors(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in student.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _what_is_kept(folder: Path) -> str:
    newest = newest_checkpoint(folder)
    return "Nothing had been saved before." if newest is None else f"The checkpoint {newest.name} is whole."
