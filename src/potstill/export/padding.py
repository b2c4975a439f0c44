"""Widths that blocks of 32 divide, for a student whose own they don't: zeros beside what is there, and the same function.

RMSNorm over H channels and P - H zeros finds a mean square that is H / P of what it was. Times sqrt(H / P) in its weight, and with H / P of
its epsilon, it says what it said. Neurons of zeros add nothing. GPT-2's norm takes off the mean, which zeros move; llama.cpp multiplies
Gemma's embedding by the root of the width, and its Qwen 2 has as many channels as its heads together: those keep their channels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from potstill.export.blocks import BLOCK, GgufKind
from potstill.export.families import Widths, family_of, widths_of

_READS_CHANNELS = re.compile(r"^token_embd|^output\.weight|attn_[qkv]\.weight|ffn_(gate|up)\.weight")
_WRITES_CHANNELS = re.compile(r"(attn_output|ffn_down)\.(weight|bias)")
_NORMS = re.compile(r"^output_norm|attn_norm|ffn_norm")
_READS_NEURONS = re.compile(r"ffn_down\.weight")
_WRITES_NEURONS = re.compile(r"ffn_(gate|up)\.(weight|bias)")
_EVEN_CHANNELS = ("llama", "qwen3")


@dataclass(frozen=True)
class Padding:
    """From the student's widths to the file's."""

    own: Widths
    file: Widths

    @property
    def words(self) -> str:
        """As `432 channels as 448`; empty where nothing is added."""
        pairs = (
            (self.own.channels, self.file.channels, "channels"),
            (self.own.neurons, self.file.neurons, "neurons"),
        )
        return ", ".join(f"{own} {name} as {padded}" for own, padded, name in pairs if own != padded)

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor by llama.cpp's name, its rows first, with its zeros."""
        more = self.file.channels - self.own.channels
        if more and _NORMS.search(name):
            return pad(tensor.float() * (self.own.channels / self.file.channels) ** 0.5, (0, more))
        if more and _READS_CHANNELS.search(name):
            tensor = pad(tensor, (0, more))
        if more and _WRITES_CHANNELS.search(name):
            tensor = _more_rows(tensor, more)
        more = self.file.neurons - self.own.neurons
        if more and _READS_NEURONS.search(name):
            tensor = pad(tensor, (0, more))
        if more and _WRITES_NEURONS.search(name):
            tensor = _more_rows(tensor, more)
        return tensor


def padding_of(model: PreTrainedModel, kind: GgufKind) -> Padding:
    """What a file of this type adds: nothing where weights have no blocks."""
    own = widths_of(model.config)
    if not kind.startswith("q"):
        return Padding(own, own)
    channels = _up(own.channels) if family_of(model).architecture in _EVEN_CHANNELS else own.channels
    return Padding(own, Widths(channels, _up(own.neurons)))


def _up(width: int) -> int:
    return -(-width // BLOCK) * BLOCK


def _more_rows(tensor: Tensor, more: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])])
