"""A teacher that is not there: what it said is on disk."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.data import TokenCorpus
from potstill.errors import DataError, LossError, StoreError
from potstill.losses import SoftLabelLoss
from potstill.soft_labels import Dense, Hidden, Sampled, Store, TopK, document_keys
from potstill.types import (
    Batch,
    DenseTargets,
    Head,
    Labels,
    MixedTargets,
    SparseTargets,
    TranslatedTargets,
)


class StoredTeacher:
    """Labels of a corpus, for its batches in any packing, order or epoch.

    A batch is held against the corpus token by token before it gets its labels, and a document's labels are found by the hash of its
    tokens: labels of other text can't be given.
    """

    def __init__(self, store: Store, corpus: TokenCorpus, *, tokenizer: str, measure: SoftLabelLoss) -> None:
        """`tokenizer`: the fingerprint of the corpus's. Raises StoreError where the store is of another tokenizer or hasn't got all of
        the corpus, LossError where its tier can't serve the measure."""
        manifest = store.manifest
        if manifest.tokenizer != tokenizer:
            raise StoreError(
                f"the labels in {store.folder} are of another tokenizer than the text: use the teacher's, or label the text anew"
            )
        check_serves(store, measure)
        self.store, self.corpus, self.temperature = store, corpus, measure.temperature
        self.num_tokens = manifest.num_tokens
        self._places = store.places(document_keys(corpus.ids, corpus.weights, corpus.offsets))
        self._counted = np.concatenate([[0], np.cumsum(corpus.weights > 0)])
        has_any = np.diff(self._counted[corpus.offsets]) > 0
        if missing := int((has_any & (self._places.shards < 0)).sum()):
            gone = store.missing_shards
            why = f" ({len(gone)} of its files are missing, {gone[0]} among them)" if gone else ""
            raise StoreError(
                f"{missing:,} of {len(corpus):,} documents of the text have no labels in {store.folder}{why}: run `potstill label` "
                "again with this run's recipe and settings, it adds what is missing"
            )

    def label(self, batch: Batch) -> DenseTargets | SparseTargets:
        """The labels of the counted predictions, in reading order, on the CPU. DataError for a batch of another text."""
        counted = np.flatnonzero(batch.counted.cpu().numpy())
        documents, offsets, inputs, targets = (
            field.cpu().numpy().ravel()[counted]
            for field in (batch.documents, batch.offsets, batch.inputs, batch.targets)
        )
        self._check_is_of_corpus(documents, offsets, inputs, targets)
        starts = self.corpus.offsets[documents]
        numbers = self._counted[starts + offsets + 1] - self._counted[starts]
        if (beyond := numbers >= self._places.tokens[documents]).any():
            raise StoreError(
                f"{int(beyond.sum()):,} predictions lie beyond the {self.store.manifest.context:,} tokens of context that "
                f"{self.store.folder} was labelled with: lower training.length, or label with a longer context"
            )
        places = self._places
        return self.store.read(places.shards[documents], places.starts[documents] + numbers, self.temperature)

    def _check_is_of_corpus(self, documents: NDArray, offsets: NDArray, inputs: NDArray, targets: NDArray) -> None:
        corpus = self.corpus
        is_known = (documents >= 0) & (documents < len(corpus))
        places = corpus.offsets[np.where(is_known, documents, 0)] + offsets
        is_known &= places + 1 < corpus.num_tokens
        places = np.where(is_known, places, 0)
        is_same = is_known & (corpus.ids[places] == inputs) & (corpus.ids[places + 1] == targets)
        if not is_same.all():
            raise DataError(
                f"{int((~is_same).sum()):,} of {len(is_same):,} predictions of a batch are not of the text that these labels are for: "
                "make the batches from the same corpus"
            )


def on_device(targets: Labels, device: torch.device) -> Labels:
    """The same labels there."""
    if isinstance(targets, TranslatedTargets):
        moved = {one.name: getattr(targets, one.name).to(device) for one in fields(targets) if one.name != "head"}
        return TranslatedTargets(head=_head_on(targets.head, device), **moved)
    if isinstance(targets, MixedTargets):
        parts = tuple(_on_device(part, device) for part in targets.parts)
        return MixedTargets(parts, targets.weights.to(device), targets.of)
    return _on_device(targets, device)


def _on_device(part: DenseTargets | SparseTargets, device: torch.device) -> DenseTargets | SparseTargets:
    if isinstance(part, SparseTargets):
        rest = None if part.rest is None else part.rest.to(device)
        return SparseTargets(part.ids.to(device), part.probs.to(device), rest, part.temperature)
    layers = {layer: states.to(device) for layer, states in part.layers.items()}
    attention = {key: states.to(device) for key, states in part.attention.items()}
    return DenseTargets(part.rows.to(device), _head_on(part.head, device), layers, attention)


def _head_on(head: Head, device: torch.device) -> Head:
    bias = None if head.bias is None else head.bias.to(device)
    return replace(head, weight=head.weight.to(device), bias=bias)


def check_serves(store: Store, measure: SoftLabelLoss) -> None:
    """LossError where the labels can't serve this divergence or temperature; says which tier could."""
    manifest, temperature = store.manifest, measure.temperature
    match manifest.codec:
        case Hidden() | Dense():
            return
        case Sampled():
            if not measure.divergence.takes_samples:
                raise LossError(
                    f"{store.folder} holds samples (tier sampled), which serve forward KL alone, and the loss is "
                    f'{type(measure.divergence).__name__}: use forward_kl, or label with tier = "topk" or "hidden"'
                )
        case TopK():
            pass
    known = store.temperatures
    if temperature not in known:
        raise LossError(
            f"{store.folder} holds labels of temperature {', '.join(f'{t:g}' for t in known)} and the loss asks for {temperature:g}: "
            f'set loss.temperature = {known[0]:g}, or label with labels.temperature = {temperature:g}, or with tier = "hidden", which '
            "serves any"
        )
