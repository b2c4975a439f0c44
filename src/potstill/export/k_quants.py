"""GGUF's K-quants: 256 weights a block, whose parts have scales of their own that are rounded too. They say what llama.cpp's own say.

    Q4_K   8 parts of 32: w = d · s · q - m · t,  q of 4 bits, scales s and offsets t of 6, d and m in f16; 4.5 bits a weight
    Q6_K   16 parts of 16: w = d · s · q,         q of 6 bits, s of 8, d in f16; 6.56 bits a weight

Scale and offset of a part are the least squares of several roundings, of which the best is taken (`quantize_row_q4_K_ref` and
`quantize_row_q6_K_ref` of ggml-quants.c); without statistics of activations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

K_BLOCK = 256
Floats = NDArray[np.float32]
_TRIES, _CHUNK = 21, 4096
# Below this a part is zero.
_NOTHING = np.float32(1e-15)
_f, _u = np.float32, np.uint8


def q4_k(values: Floats) -> NDArray[np.uint8]:
    """[rows, columns] -> [rows, columns / 256 · 144]."""
    return _in_chunks(values, _q4_k)


def q6_k(values: Floats) -> NDArray[np.uint8]:
    """[rows, columns] -> [rows, columns / 256 · 210]."""
    return _in_chunks(values, _q6_k)


def _in_chunks(values: Floats, quantize: Callable[[Floats], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, K_BLOCK)
    found = [quantize(blocks[start : start + _CHUNK]) for start in range(0, len(blocks), _CHUNK)]
    return np.concatenate(found).reshape(len(values), -1)


def _q4_k(blocks: Floats) -> NDArray[np.uint8]:
    parts = blocks.reshape(len(blocks), 8, 32)
    scales, offsets = _scale_and_offset(parts, most=15)
    d, s = _six_bits(scales)
    m, t = _six_bits(offsets)
    step = (d[:, None] * s).astype(np.float32)[..., None]
    away = (m[:, None] * t).astype(np.float32)[..., None]
    q = np.rint(np.divide(parts + away, step, out=np.zeros_like(parts), where=step != 0)).clip(0, 15).astype(np.uint8)
    q = q.reshape(len(blocks), 4, 2, 32)
    heads = [one.astype(np.float16).reshape(-1, 1).view(np.uint8) for one in (d, m)]
    return np.concatenate(
        [*heads, _packed(s, t), (q[:, :, 0] | (q[:, :, 1] << _u(4))).reshape(len(blocks), -1)], axis=1
    )


def _scale_and_offset(x: Floats, *, most: int) -> tuple[Floats, Floats]:
    """Of each part: x is about scale · q - offset with q in 0 ... most and offset >= 0, weighted by what is larger than most of it."""
    weight = np.sqrt(_sum(x * x) / _f(x.shape[-1]))[..., None] + np.abs(x)
    offset, high = np.minimum(x.min(-1), _f(0)), x.max(-1)
    is_flat, flat = high == offset, offset
    high = np.where(is_flat, offset + _f(1), high)
    scale = (high - offset) / _f(most)
    q = np.rint((x - offset[..., None]) / scale[..., None]).clip(0, most).astype(np.float32)
    least = _sum(weight * (scale[..., None] * q + offset[..., None] - x) ** 2)
    sum_w, sum_x = _sum(weight), _sum(weight * x)
    for number in range(_TRIES):
        # Levels so far apart, from the best offset so far.
        levels = (_f(most - 1) + _f(0.1) * _f(number)) / (high - offset)
        q = np.rint(levels[..., None] * (x - offset[..., None])).clip(0, most).astype(np.float32)
        sum_q, sum_qq, sum_xq = _sum(weight * q), _sum(weight * q * q), _sum(weight * x * q)
        both = sum_w * sum_qq - sum_q * sum_q
        with np.errstate(divide="ignore", invalid="ignore"):
            slope, bottom = (sum_w * sum_xq - sum_x * sum_q) / both, (sum_qq * sum_x - sum_q * sum_xq) / both
            is_above = bottom > 0
            slope, bottom = np.where(is_above, sum_xq / sum_qq, slope), np.where(is_above, _f(0), bottom)
            error = _sum(weight * (slope[..., None] * q + bottom[..., None] - x) ** 2)
            is_better = (both > 0) & (error < least)
        scale, offset = np.where(is_better, slope, scale), np.where(is_better, bottom, offset)
        least = np.where(is_better, error, least)
    return np.where(is_flat, _f(0), scale), -np.where(is_flat, flat, offset)


def _six_bits(values: Floats) -> tuple[Floats, Floats]:
    """One number in f16 for all parts, and 0 ... 63 times it for each."""
    most = np.maximum(values.max(-1), _f(0))
    levels = np.divide(_f(63), most, out=np.zeros_like(most), where=most > 0)
    whole = (most / _f(63)).astype(np.float16).astype(np.float32)
    return whole, np.rint(levels[:, None] * values).clip(0, 63).astype(np.float32)


def _packed(scales: Floats, offsets: Floats) -> NDArray[np.uint8]:
    """Twelve bytes of sixteen numbers of six bits: the last four pairs lend their upper two bits to the first eight bytes."""
    s, t = scales.astype(np.uint8), offsets.astype(np.uint8)
    first = s[:, :4] | ((s[:, 4:] >> _u(4)) << _u(6))
    second = t[:, :4] | ((t[:, 4:] >> _u(4)) << _u(6))
    return np.concatenate([first, second, (s[:, 4:] & _u(15)) | ((t[:, 4:] & _u(15)) << _u(4))], axis=1)


def _q6_k(blocks: Floats) -> NDArray[np.uint8]:
    parts = blocks.reshape(len(blocks), 16, 16)
    scales = _scale(parts, most=32)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(-1)[:, None], axis=-1)
    is_nothing = np.abs(largest) < _NOTHING
    inverse = np.divide(_f(-128), largest, out=np.zeros_like(largest), where=~is_nothing)
    d = np.divide(_f(1), inverse, out=np.zeros_like(largest), where=~is_nothing).astype(np.float16)
    s = np.minimum(np.rint(inverse * scales), 127).astype(np.int8)
    step = (d.astype(np.float32) * s)[..., None]
    q = np.rint(np.divide(parts, step, out=np.zeros_like(parts), where=step != 0)).clip(-32, 31)
    # A part that is nothing is read as nothing whatever its codes, which are then 0 rather than 32.
    codes = (
        np.where((np.abs(parts).max(-1) < _NOTHING)[..., None], 0, q + 32)
        .astype(np.uint8)
        .reshape(len(blocks), 2, 4, 32)
    )
    low = codes & _u(15)
    low = np.stack([low[:, :, 0] | (low[:, :, 2] << _u(4)), low[:, :, 1] | (low[:, :, 3] << _u(4))], axis=2)
    high = codes >> _u(4)
    high = high[:, :, 0] | (high[:, :, 1] << _u(2)) | (high[:, :, 2] << _u(4)) | (high[:, :, 3] << _u(6))
    flat = [one.reshape(len(blocks), -1) for one in (low, high, s.view(np.uint8), d.view(np.uint8))]
    return np.concatenate(flat, axis=1)


def _scale(x: Floats, *, most: int) -> Floats:
    """Of each part: x is about scale · q with q in -most ... most - 1, weighted by x²."""
    at = np.abs(x).argmax(-1)[..., None]
    largest = np.take_along_axis(x, at, axis=-1)
    is_nothing = np.abs(largest) < _NOTHING
    largest = np.where(is_nothing, _f(1), largest)
    scale = best = None
    for number in (0, *range(-9, 0), *range(1, 10)):
        q = np.rint(-(_f(most) + _f(0.1) * _f(number)) / largest * x).clip(-most, most - 1).astype(np.float32)
        sum_xq, sum_qq = _sum(x * x * x * q), _sum(x * x * q * q)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(sum_qq > 0, sum_xq / sum_qq, _f(0))
        if scale is None or best is None:
            scale, best = found, found * sum_xq
            continue
        is_better = (sum_qq > 0) & (sum_xq * sum_xq > best * sum_qq)
        scale, best = np.where(is_better, found, scale), np.where(is_better, found * sum_xq, best)
    assert scale is not None
    return np.where(is_nothing[..., 0], _f(0), scale)


def _sum(values: Floats) -> Floats:
    return values.sum(-1, dtype=np.float32)
