"""What a store is of, and how its labels were made: whatever does not match is refused."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from potstill.errors import StoreError
from potstill.soft_labels.hidden import Dense, Hidden
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.topk import TopK

VERSION = 1
MANIFEST, TABLES = "manifest.json", "tables.safetensors"
Codec = Sampled | TopK | Hidden | Dense
TIERS: dict[str, type[Codec]] = {"sampled": Sampled, "topk": TopK, "hidden": Hidden, "dense": Dense}


@dataclass(frozen=True)
class Manifest:
    """Everything that decides a label.

    codec          which tier, and its settings
    temperature    of the softmax the labels come from (topk: the first of its list; hidden, dense: any)
    num_tokens     tokens that get a probability
    tokenizer      fingerprint of what made the token ids
    teacher        name, fingerprint and dtype of the model
    context        tokens the teacher sees at most: texts are cut into windows of so many
    seed           of the sampling
    rows           windows the teacher reads at once: part of the identity, because it can decide the last bit of a logit
    page_tokens    predictions that are compressed together
    shard_tokens   predictions in a file, at least (a document is never divided)
    head           how the hidden states of the tier `hidden` become logits: scale, softcap
    """

    codec: Codec
    num_tokens: int
    tokenizer: str
    teacher: dict[str, str]
    context: int
    temperature: float = 1.0
    seed: int = 0
    rows: int = 8
    page_tokens: int = 512
    shard_tokens: int = 2**18
    head: dict[str, float | None] = field(default_factory=dict)

    @property
    def tier(self) -> str:
        """The codec's name."""
        return next(name for name, kind in TIERS.items() if isinstance(self.codec, kind))

    @property
    def identity(self) -> str:
        """A digest of all of it: every shard carries it."""
        return hashlib.blake2b(_text(self).encode(), digest_size=16).hexdigest()

    @property
    def dtype(self) -> str:
        """The number format in which the teacher's weights were held; "" where nobody says."""
        return self.teacher.get("dtype", "").removeprefix("torch.")

    @classmethod
    def of(cls, folder: Path) -> Manifest | None:
        """The manifest of the store in this folder; None where none was begun. StoreError for a damaged one."""
        return cls.load(folder)[0] if (folder / MANIFEST).exists() else None

    def save(self, folder: Path, tables: dict[str, NDArray]) -> None:
        """Write tables, then manifest.json: without it there is no store. Raises OSError."""
        blob = save(tables)
        _write(folder / TABLES, blob)
        content = {
            "version": VERSION,
            "tables": hashlib.blake2b(blob, digest_size=16).hexdigest(),
            "identity": self.identity,
            "labels": json.loads(_text(self)),
        }
        _write(folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> tuple[Manifest, dict[str, NDArray]]:
        """(manifest, tables); StoreError where there is no store, a newer one, or one that is not as it was written."""
        path = folder / MANIFEST
        if not path.exists():
            raise StoreError(f"{folder} holds no soft labels (no {MANIFEST}): make them with `potstill label`")
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["version"] > VERSION:
                raise StoreError(
                    f"{path} is of version {content['version']} and this potstill reads up to {VERSION}: install a newer potstill"
                )
            manifest = _from_json(content["labels"])
            identity, digest = content["identity"], content["tables"]
            blob = (folder / TABLES).read_bytes()
            tables = load(blob)
        except StoreError:
            raise
        except (OSError, ValueError, RecursionError, KeyError, TypeError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error
        if manifest.identity != identity:
            raise _damaged(path, "it does not say what it said when it was written")
        if hashlib.blake2b(blob, digest_size=16).hexdigest() != digest:
            raise _damaged(folder / TABLES, "it is not what was written")
        return manifest, tables

    def difference(self, other: Manifest) -> str | None:
        """The first setting in which the two differ, in words; None where they are the same."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine != theirs:
                return f"{each.name} is {mine} there and {theirs} here"
        return None


def _text(manifest: Manifest) -> str:
    codec = {"tier": manifest.tier, **asdict(manifest.codec)}
    return json.dumps({**asdict(manifest), "codec": codec}, sort_keys=True)


def _from_json(labels: dict) -> Manifest:
    settings: dict = {name: tuple(v) if isinstance(v, list) else v for name, v in labels["codec"].items()}
    return Manifest(**{**labels, "codec": TIERS[settings.pop("tier")](**settings)})


def _write(path: Path, blob: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged: {what}. Copy it again from where it came, or make the store anew")


def tokens_by_rank(counts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The tokens from the most frequent one of the text down; those it hasn't got keep their order."""
    return np.lexsort((np.arange(len(counts)), -counts)).astype(np.uint32)
