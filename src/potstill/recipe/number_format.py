"""dtype = "auto" -> the number format in which work is done: measured where it begins, and kept. A busy machine, or another one, may find
something else faster, and what goes on in another format than it began in ends with other numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.recipe.text import Say

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from potstill.runs import RunFolder

_KEPT = "dtype.json"


def dtype_of_run(wanted: str, folder: RunFolder, say: Say) -> torch.dtype:
    """What the run began in, or begins in now; `say` is told where something else is faster on this machine."""
    import torch

    from potstill.models import faster_dtype, this_device

    if wanted != "auto":
        return getattr(torch, wanted)
    faster, begun = faster_dtype(this_device()), _begun_in(folder)
    if not (folder.path / _KEPT).exists():
        folder.keep_json(_KEPT, {"dtype": _name(begun or faster)})
    if begun is not None and begun != faster:
        say(f"going on in {_name(begun)}, in which this run began ({_name(faster)} is faster on this machine)")
    return begun or faster


def hold_as_begun_(model: PreTrainedModel, wanted: str, begun: object, *, rounds: bool = False) -> str:
    """Hold the weights in the number format in which labels or text were begun (None: they begin now); its name.

    Weights that would lose something stay as they are, except with `rounds` in a format that was asked for by name.
    """
    import torch

    from potstill.models import faster_dtype, hold_in_, this_device

    if wanted != "auto":
        hold_in_(model, getattr(torch, wanted), rounds=rounds)
    else:
        hold_in_(model, _named(begun) or faster_dtype(this_device()))
    return _name(model.dtype)


def _begun_in(folder: RunFolder) -> torch.dtype | None:
    """None where nothing was done yet. A run says it a second time, in its manifest: who deletes a damaged file loses nothing by it."""
    if (folder.path / _KEPT).exists():
        return folder.read_as(_KEPT, lambda found: _named(found["dtype"]))
    said = folder.read_json("manifest.json").get("run") if (folder.path / "manifest.json").exists() else None
    return _named(said.get("dtype")) if isinstance(said, dict) else None


def _named(name: object) -> torch.dtype | None:
    """None for what is no name of a number format, as in a damaged file."""
    import torch

    found = getattr(torch, str(name), None)
    return found if isinstance(found, torch.dtype) else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
