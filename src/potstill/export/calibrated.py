"""Codes and scales found on text by auto-round, in place of rounding to nearest.

AutoRound (Cheng et al. 2023, arXiv:2309.05516) goes through the model block by block: whether each weight is rounded up or down, and how
wide its group's range is, learn by the sign of their gradients to give the block's outputs on text. The grid is `grid`'s, and so is the
file.
"""

from __future__ import annotations

import logging
from copy import deepcopy

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import TokenCorpus
from potstill.errors import DataError, MissingExtraError
from potstill.export.grid import held
from potstill.export.int4 import Codes, checked_group, quantisable


def calibrated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: TokenCorpus,
    group: int | None = None,
    *,
    bits: int = 4,
    length: int = 256,
    samples: int = 128,
    steps: int = 200,
    rows: int = 8,
    seed: int = 0,
) -> Codes:
    """Codes and scales of every layer, learned in `steps` a block on `samples` spans of `length` tokens. Give them to `save_packed`.

    Spans are the beginnings of documents, else what follows in them. DataError where the corpus has none that are long enough;
    MissingExtraError without auto-round. The model stays as it is.
    """
    try:
        from auto_round import AutoRound, SignRoundConfig
    except ImportError as error:
        raise MissingExtraError("auto-round", extra="auto-round", purpose="Rounding by auto-round") from error
    group = checked_group(model, group)
    spans = _spans(corpus, length, samples)
    logging.getLogger("autoround").setLevel(logging.ERROR)
    found = AutoRound(
        deepcopy(model).float(),
        tokenizer=tokenizer,
        scheme={"bits": bits, "group_size": group, "sym": True, "data_type": "int"},
        alg_configs=SignRoundConfig(iters=steps),
        dataset=DataLoader(_Rows(spans), batch_size=None),
        seqlen=length,
        nsamples=len(spans),
        batch_size=min(rows, len(spans)),
        device_map=str(model.device),
        enable_torch_compile=False,
        seed=seed,
    )
    tuned, _ = found.quantize()
    assert isinstance(tuned, PreTrainedModel)
    return {name: _codes(layer, bits) for name, layer in quantisable(tuned)}


class _Rows(Dataset[dict[str, torch.Tensor]]):
    """Spans one by one, as a batch of one each."""

    def __init__(self, spans: list[torch.Tensor]) -> None:
        self.spans = spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.spans[index][None]}


def _codes(layer: torch.nn.Linear, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, scales) of a layer whose weights auto-round left as scale * q: its scales as bfloat16 has them, its own q."""
    assert isinstance(layer.scale, torch.Tensor)
    scale = layer.scale.float()
    parts = layer.weight.detach().float().unflatten(-1, (scale.shape[-1], -1))
    q = (parts / torch.where(scale == 0, 1.0, scale)[..., None]).round()
    q = q.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).flatten(-2).to(torch.int8)
    return q, held(scale, torch.bfloat16)


def _spans(corpus: TokenCorpus, length: int, most: int) -> list[torch.Tensor]:
    """Up to `most` spans of `length` tokens: each document's first, then each one's second, and so on."""
    found: list[torch.Tensor] = []
    sizes = corpus.offsets[1:] - corpus.offsets[:-1]
    for place in range(int(sizes.max(initial=0)) // length):
        for document in range(len(corpus)):
            if len(found) == most:
                return found
            if sizes[document] >= (place + 1) * length:
                ids = corpus.document(document)[0][place * length : (place + 1) * length]
                found.append(torch.as_tensor(ids.astype("int64")))
    if not found:
        raise DataError(
            f"auto-round learns on whole spans of {length} tokens, and no document of the text has so many: "
            "give longer documents (--calibrate), or a smaller --length"
        )
    return found
