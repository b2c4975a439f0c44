"""The teacher on a worker's machine: the one that is meant, under the same versions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from potstill.errors import MissingExtraError, ModelError
from potstill.models import hold_in_, load_model, on_this_device
from potstill.runs import fingerprint_of_model, versions

_DECIDING = ("potstill", "torch", "transformers")


def numbering() -> dict[str, str]:
    """The versions that all must share; not the build: the machine that begins the work may have no accelerator."""
    return {name: found.partition("+")[0] for name, found in versions().items() if name in _DECIDING}


def teacher_here(
    name: str, *, fingerprint: object, dtype: str, expected: Mapping[str, str], rounds: bool = False
) -> PreTrainedModel:
    """The teacher on this machine's device, held in this dtype (`rounds`: also where its weights lose something); `expected`: the versions
    of whoever keeps what is made (see `numbering`).

    ModelError where it is another teacher, can't be loaded, or where this machine has other versions.
    """
    found = numbering()
    if differing := [
        f"{name} {found[name]}, not {wanted}" for name, wanted in expected.items() if found[name] != wanted
    ]:
        raise ModelError(
            f"a worker's machine has {', '.join(differing)}: install the same on all, or what is made depends on who makes it"
        )
    try:
        model = load_model(name)
    except MissingExtraError as error:  # it can't be sent as it is
        raise ModelError(str(error)) from error
    if fingerprint_of_model(model) != fingerprint:
        raise ModelError(
            f"a worker found another model at {name} than the one that began the work: all machines must see the same files"
        )
    hold_in_(model, getattr(torch, dtype.removeprefix("torch.")), rounds=rounds)
    return on_this_device(model)
