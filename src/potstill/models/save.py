"""A model on disk: all of it or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import RunDirectoryError


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes weights (safetensors), configuration and tokenizer so that plain `from_pretrained(folder)` reloads them.

    Everything is written into a folder beside and renamed at the end, so a model saved earlier is replaced whole and not
    before the new one is complete. Raises RunDirectoryError where the folder holds something else, or can't be written.
    """
    with saved_whole(Path(folder)) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)


@contextmanager
def saved_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write a model into, which takes its place at the end. Errors as save_model's."""
    if folder.exists() and not _is_replaceable(folder):
        raise RunDirectoryError(
            f"{folder} is not a saved model and would be replaced by one: choose another folder or move it away"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
            written = Path(beside, "written")
            yield written
            # safetensors writes for its owner alone; whoever may read the rest may read the weights.
            for file in written.glob("*.safetensors"):
                file.chmod((written / "config.json").stat().st_mode)
            if folder.exists():
                folder.rename(Path(beside, "replaced"))
            written.rename(folder)
    except Exception as error:
        # The tokenizers library raises plain Exceptions.
        if type(error) is not Exception and not isinstance(error, OSError | SafetensorError):
            raise
        free = shutil.disk_usage(_nearest_existing(folder)).free
        raise RunDirectoryError(
            f"the model can't be written to {folder} ({error}; {free / 1e9:.1f} GB are free there): make room or choose "
            "another folder; what was saved there before is untouched"
        ) from error


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    is_model = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return is_model or not any(folder.iterdir())


def _nearest_existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
