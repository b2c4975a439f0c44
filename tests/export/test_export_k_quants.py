"""K-quants are read as what llama.cpp's own reference writes and as they were meant, and run in llama.cpp itself."""

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import xllamacpp
from small_tokenizers import byte_level
from tiny_models import FAMILIES, GROUPED, tiny_model

from potstill.engines import LlamaServer
from potstill.engines.reading import log_probabilities
from potstill.export import save_gguf
from potstill.export.gguf_file import smaller_blocks_in, types_in
from potstill.export.k_quants import q4_k, q6_k
from potstill.models import load_model

KINDS = {"q4_K": (q4_k, 144, 0.075), "q6_K": (q6_k, 210, 0.019)}
WIDE = GROUPED | {"vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}


def samples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    found = {
        "normal": random.normal(size=(64, 512)) * 0.02,
        "heavy-tailed": random.standard_t(3, size=(32, 512)),
        "all positive": random.random((16, 256)) + 1,
        "half nothing": np.concatenate([np.zeros((8, 128)), random.normal(size=(8, 128))], 1),
        "nothing": np.zeros((2, 256)),
        "all the same": np.full((2, 256), -0.3),
        "parts of many sizes": random.normal(size=(32, 512)) * np.repeat(10 ** random.uniform(-9, 0, (32, 16)), 32, 1),
        "outliers": random.normal(size=(64, 512)) * np.where(random.random((64, 512)) < 0.005, 50, 1),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def decoded(raw: np.ndarray, kind: str) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind.upper()])


def error(raw: np.ndarray, kind: str, values: np.ndarray) -> float:
    return float(np.linalg.norm(decoded(raw, kind) - values) / max(1e-12, np.linalg.norm(values)))


def of_llama_cpp(values: np.ndarray, kind: str, size: int) -> np.ndarray:
    """What ggml-quants.c writes; xllamacpp's library exports it."""
    library = ctypes.CDLL(str(Path(xllamacpp.__file__).with_name("xllamacpp.abi3.so")))
    quantize = getattr(library, f"quantize_row_{kind}_ref", None)
    if quantize is None:
        pytest.skip("this xllamacpp exports no quantiser")
    quantize.argtypes, quantize.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    out = np.zeros((len(values), values.shape[1] // 256 * size), np.uint8)
    quantize(np.ascontiguousarray(values).ctypes.data, out.ctypes.data, values.size)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", samples())
def test_blocks_are_llama_cpps_own(name, kind):
    """They are read as the same values, but for the order of sums, which may decide between two roundings that are as good.

    Bytes may differ where a part's scale is rounded to nothing: its codes say nothing then."""
    quantize, size, _ = KINDS[kind]
    values = samples()[name]
    ours, theirs = quantize(values), of_llama_cpp(values, kind, size)
    assert np.isclose(decoded(ours, kind), decoded(theirs, kind), rtol=1e-3, atol=0).mean() > 0.95
    assert error(ours, kind, values) == pytest.approx(error(theirs, kind, values), rel=3e-3, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_as_near_as_their_bits(kind):
    quantize, size, most = KINDS[kind]
    values = samples()["normal"]
    raw = quantize(values)
    assert raw.shape == (64, 2 * size)
    assert error(raw, kind, values) < most
    assert np.array_equal(raw, np.concatenate([quantize(values[:7]), quantize(values[7:])]))


@pytest.mark.parametrize(("kind", "most"), [("q4_k_m", 0.08), ("q6_k", 0.02)])
def test_llama_cpp_computes_with_them_what_torch_does(kind, most, tmp_path):
    model = tiny_model("llama", settings=WIDE | {"tie_word_embeddings": False}, spread=3.0)
    save_gguf(model, byte_level(), tmp_path / "tiny.gguf", kind)
    again = load_model(tmp_path / "tiny.gguf")
    for name, weight in model.state_dict().items():
        assert ((again.state_dict()[name] - weight).norm() / weight.norm()) < most, name
    ids = torch.randint(320, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        ours = again(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1).numpy()
    with LlamaServer(tmp_path / "tiny.gguf", context=32, threads=1) as server:
        theirs = log_probabilities(server, ids, 320)
    assert (np.exp(ours) * (ours - theirs)).sum() < 1e-2  # it rounds activations to eight bits
    assert ours.max() - ours.min() > 3


def test_the_mixture_is_llama_cpps(tmp_path):
    """Of 4 layers values and down-projections of the last two are finer, as are embedding and head."""
    save_gguf(tiny_model("llama", settings=WIDE), byte_level(), tmp_path / "tiny.gguf", "q4_k_m")
    found = {one.name: one.tensor_type.name for one in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    fine = {name for name, kind in found.items() if kind == "Q6_K"}
    finer_layers = {2, 3}  # of llama.cpp's use_more_bits: each third, and the last eighth
    assert fine == {"token_embd.weight", "output.weight"} | {
        f"blk.{layer}.{part}.weight" for layer in finer_layers for part in ("attn_v", "ffn_down")
    }
    assert {kind for name, kind in found.items() if name not in fine and "norm" not in name} == {"Q4_K"}
    assert smaller_blocks_in(tmp_path / "tiny.gguf", "q4_k_m") == {}


def test_rows_that_256_does_not_divide_are_of_smaller_blocks(tmp_path):
    settings = WIDE | {"hidden_size": 64, "intermediate_size": 40}
    save_gguf(tiny_model("llama", settings=settings), byte_level(), tmp_path / "tiny.gguf", "q4_k_m")
    assert set(types_in(tmp_path / "tiny.gguf")) == {"Q8_0", "Q5_0", "F32"}
    said = smaller_blocks_in(tmp_path / "tiny.gguf", "q4_k_m")
    assert said["attn_q (64 inputs)"] == "Q5_0"
    assert said["attn_v (64 inputs)"] == "Q5_0 and Q8_0"
    assert said["token_embd (64 inputs)"] == "Q8_0"
    assert said["ffn_down (64 inputs)"] == "Q5_0 and Q8_0"
    assert smaller_blocks_in(tmp_path / "tiny.gguf", "q8_0") == {}
    assert smaller_blocks_in(tmp_path / "tiny.gguf", "f16") == {}


def test_positions_are_whole_whatever_their_rows(tmp_path):
    model = tiny_model("gpt2", settings=FAMILIES["gpt2"] | {"vocab_size": 320})
    save_gguf(model, byte_level(), tmp_path / "tiny.gguf", "q6_k")
    said = smaller_blocks_in(tmp_path / "tiny.gguf", "q6_k")
    assert any(one.startswith("token_embd") for one in said)
    assert not any(one.startswith("position_embd") for one in said)
