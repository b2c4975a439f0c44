"""A model on disk: all of it or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.checks import check_of_file
from potstill.errors import ModelError, RunDirectoryError

# What the files of a saved model are, so that one that has changed on its disk is not taken for the student.
CHECKS = "checks.json"
_ADVICE = f"copy the model again, or make it anew; where it was changed on purpose, delete {CHECKS}"


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes weights (safetensors), configuration and tokenizer so that plain `from_pretrained(folder)` reloads them.

    Everything is written into a folder beside and renamed at the end, so a model saved earlier is replaced whole and not
    before the new one is complete. Raises RunDirectoryError where the folder holds something else, or can't be written.
    """
    with saved_whole(Path(folder)) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)


@contextmanager
def saved_whole(folder: Path, *, beside: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A folder to write a model into, which takes the place of `folder` at the end; `beside` are further files, their text by name.

    Errors as save_model's.
    """
    if folder.exists() and not _is_replaceable(folder):
        raise RunDirectoryError(
            f"{folder} is not a saved model and would be replaced by one: choose another folder or move it away"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            written = Path(place, "written")
            yield written
            # safetensors writes for its owner alone; whoever may read the rest may read the weights.
            for file in written.glob("*.safetensors"):
                file.chmod((written / "config.json").stat().st_mode)
            checks = {file.name: check_of_file(file) for file in sorted(written.iterdir()) if file.is_file()}
            (written / CHECKS).write_text(json.dumps(checks, indent=1) + "\n", "utf-8")
            for name, text in (beside or {}).items():  # not the model's: they may change
                (written / name).write_text(text, "utf-8")
            if folder.exists():
                folder.rename(Path(place, "replaced"))
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


def check_as_saved(folder: Path, *, of_tokenizer: bool) -> None:
    """ModelError where a file of a folder that `saved_whole` wrote, of the model or of its tokenizer, is not what was written."""
    path = folder / CHECKS
    try:
        found = json.loads(path.read_text("utf-8"))
        checks = {str(name): str(check) for name, check in found.items()}
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ModelError(f"{path} can't be read ({error}): {_ADVICE}") from error
    for name, check in checks.items():
        if ("token" in name or name.endswith(".jinja")) == of_tokenizer and _check_or_none(folder / name) != check:
            raise ModelError(f"{folder / Path(name).name} is not what was saved: {_ADVICE}")


def _check_or_none(file: Path) -> str | None:
    try:
        return check_of_file(file)
    except OSError:
        return None


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    is_model = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return is_model or not any(folder.iterdir())


def _nearest_existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
