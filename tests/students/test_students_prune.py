"""Pruned students of every family: with the parts cut at zero the teacher says the same, and plain from_pretrained reloads them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, GROUPED, LAYERS, TOKEN_IDS, VOCABULARY, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from potstill.data import TokenCorpus
from potstill.errors import ModelError
from potstill.evaluation import measure
from potstill.models import size_of
from potstill.students import (
    Importance,
    Shape,
    axis_of,
    choose_layers,
    copy_layers,
    cuttable_axes,
    largest_shape,
    least_influential,
    measure_importance,
    prune,
    shape_of_share,
    shape_of_size,
    shaped,
    sizes_of,
    with_losses,
    without_block,
)

MORE = {"gemma": {"head_dim": 8}, "mistral": {}, "phi3": {}, "glm4": {"head_dim": 8}, "stablelm": {}}
SETTINGS = FAMILIES | {family: GROUPED | more for family, more in MORE.items()}
# What their configurations can't say; everything else can be cut.
NO_HEADS = {"gpt2", "opt", "gpt_neox", "olmo2", "stablelm"}
NO_HIDDEN = {"gpt2", "opt", "gpt_neox", "phi", "cohere", "stablelm"}
SMALLER = {"ffn": 29, "heads": 2, "hidden": 24}
ENCODERS = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": 4},
    "modernbert": {"layer_types": None, "global_attn_every_n_layers": 2},
}
TOKENS = torch.tensor([[5, 9, 33, 60, 8, 7, 21, 40, 3, 11], [4, 4, 50, 12, 13, 19, 22, 48, 6, 57]])


def corpus_of(sizes: list[int], *, seed: int = 0) -> TokenCorpus:
    draw = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.ones(offsets[-1], dtype=np.float32)
    weights[offsets[:-1]] = 0
    ids = draw.integers(3, VOCABULARY, offsets[-1]).astype(np.uint32)
    keys = tuple(str(number) for number in range(len(sizes)))
    return TokenCorpus(ids, weights, offsets, keys, np.zeros(len(sizes), bool), np.ones(VOCABULARY, dtype=np.uint16))


CORPUS = corpus_of([30, 12, 25, 17, 9])


def without_parts(teacher: PreTrainedModel, name: str, size: int, importance: Importance) -> PreTrainedModel:
    """The teacher with what is not kept at zero: found by what a part *is*, not by where the product says it lies."""
    masked = deepcopy(teacher)
    axis = axis_of(teacher, name)
    scores = getattr(importance, name)
    for layer in range(LAYERS):
        of_layer = scores if name == "hidden" else scores[layer]
        within = of_layer.reshape(axis.size // axis.group, axis.group) if axis.group > 1 else of_layer[None]
        least = np.argsort(-within, axis=1, kind="stable")[:, size * within.shape[1] // axis.size :]
        dropped = (least + np.arange(len(within))[:, None] * within.shape[1]).ravel()
        for one in axis.slices:
            if f".{layer}." in one.parameter or (name == "hidden" and layer == 0):
                weight = masked.state_dict()[one.parameter]
                part = weight.shape[one.dim] // one.chunks
                for chunk in range(one.chunks):
                    for index in dropped:
                        first = chunk * part + index * one.units
                        weight.narrow(one.dim, int(first), one.units).zero_()
    return masked


@pytest.mark.parametrize("name", ["ffn", "heads", "hidden"])
@pytest.mark.parametrize("family", SETTINGS)
def test_the_teacher_without_the_parts_says_what_the_student_says(family: str, name: str, tmp_path: Path):
    # Norms' epsilon is of another share where there are fewer channels: with next to none the two are the same.
    settings = SETTINGS[family] | ({"rms_norm_eps": 1e-12} if name == "hidden" else {})
    teacher = tiny_model(family, settings=settings)
    if family in {"heads": NO_HEADS, "hidden": NO_HIDDEN}.get(name, ()):
        with pytest.raises(ModelError, match=r"can't be cut|two dimensions|settings can't say|other parts"):
            axis_of(teacher, name)
        return
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    importance = measure_importance(teacher, CORPUS, length=16)
    student, lineage = prune(teacher, Shape(**{name: SMALLER[name]}), importance)
    assert lineage.layers == tuple(range(LAYERS))
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    with torch.no_grad():
        expected = without_parts(teacher, name, SMALLER[name], importance)(TOKENS).logits
        found = student.eval()(TOKENS).logits
    scale = expected.abs().max()
    assert (found - expected).abs().max() < (1e-3 if name == "hidden" else 1e-5) * scale
    assert (teacher(TOKENS).logits - expected).abs().max() > 1e-3 * scale
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters())

    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(TOKENS).logits, found)
    assert again.generate(TOKENS[:1], max_new_tokens=4, do_sample=False).shape[1] > TOKENS.shape[1]


@pytest.mark.parametrize("family", SETTINGS)
def test_everything_at_once_with_layers(family: str, tmp_path: Path):
    teacher = tiny_model(family, settings=SETTINGS[family])
    importance = measure_importance(teacher, CORPUS, length=16)
    layers = (0, 2) if family == "smollm3" else (1, 3) if "gemma" in family else (0, 3)
    shape = Shape(
        layers,
        ffn=SMALLER["ffn"],
        heads=None if family in NO_HEADS else SMALLER["heads"],
        hidden=None if family in NO_HIDDEN else SMALLER["hidden"],
    )
    student, lineage = prune(teacher, shape, importance)
    assert lineage.layers == layers
    assert student.config.num_hidden_layers == 2
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(TOKENS).logits, student.eval()(TOKENS).logits)
    assert again.generate(TOKENS[:1], max_new_tokens=4, do_sample=False).shape[1] > TOKENS.shape[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2"])
def test_the_whole_shape_is_the_teacher(family: str):
    teacher = tiny_model(family, settings=SETTINGS[family])
    importance = measure_importance(teacher, CORPUS, length=16)
    student, _ = prune(teacher, Shape(tuple(range(LAYERS)), ffn=axis_of(teacher, "ffn").size), importance)
    assert torch.equal(student.eval()(TOKENS).logits, teacher(TOKENS).logits)


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_lose_neurons(family: str):
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    config = AutoConfig.for_model(family, **(shape | ENCODERS[family]), **TOKEN_IDS)
    model = AutoModelForMaskedLM.from_config(config).eval()
    axis = axis_of(model, "ffn")
    assert axis.size == 48
    with pytest.raises(ModelError):
        axis_of(model, "heads")


def test_scores_do_not_depend_on_rows_or_padding():
    """A batch of one never pads, a batch of five pads all but the longest."""
    teacher = tiny_model("llama")
    found = [measure_importance(teacher, CORPUS, length=16, rows=rows) for rows in (1, 5)]
    for name in ("ffn", "heads", "hidden", "turns"):
        one, other = (getattr(scores, name) for scores in found)
        assert np.allclose(one, other, rtol=1e-6, atol=1e-6), name
    assert found[0].sequences == found[1].sequences == 7


def test_scores_are_what_the_definition_says():
    """By hand, on one sequence and on two."""
    teacher = tiny_model("llama")
    corpus = corpus_of([14, 11], seed=3)
    scores = measure_importance(teacher, corpus, length=16)
    neurons, heads, states = [], [], []
    seen: dict[str, torch.Tensor] = {}
    for document in range(2):
        mlp, attention = teacher.model.layers[1].mlp.down_proj, teacher.model.layers[1].self_attn.o_proj
        hooks = [
            mlp.register_forward_pre_hook(lambda _, x: seen.__setitem__("mlp", x[0])),
            attention.register_forward_pre_hook(lambda _, x: seen.__setitem__("attention", x[0])),
        ]
        ids = torch.from_numpy(corpus.document(document)[0][:-1].astype(np.int64))[None]
        with torch.no_grad():
            output = teacher(ids, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        neurons.append(seen["mlp"][0].abs().mean(0).numpy())
        heads.append(np.linalg.norm(seen["attention"][0].abs().mean(0).numpy().reshape(4, 8), axis=1))
        states.append([state[0] for state in output.hidden_states[1:3]])
    assert np.allclose(scores.ffn[1], np.sqrt(np.square(neurons).sum(0)), rtol=1e-5)
    assert np.allclose(scores.heads[1], np.sqrt(np.square(heads).sum(0)), rtol=1e-5)
    before, after = (torch.cat([one[place] for one in states]) for place in (0, 1))
    expected = (1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)).mean().item()
    assert abs(scores.block_influence[1] - expected) < 1e-5


def test_scores_are_kept_and_read(tmp_path: Path):
    scores = measure_importance(tiny_model("gpt2"), CORPUS, length=16)
    scores.save(tmp_path / "importance.safetensors")
    again = Importance.load(tmp_path / "importance.safetensors")
    assert np.array_equal(scores.ffn, again.ffn)
    assert again.heads.size == 0
    with pytest.raises(ModelError, match="no importance scores"):
        Importance.load(tmp_path / "none")
    blob = (tmp_path / "importance.safetensors").read_bytes()
    (tmp_path / "importance.safetensors").write_bytes(blob[:-3] + bytes([blob[-3] ^ 1]) + blob[-2:])
    with pytest.raises(ModelError, match="not what was written"):
        Importance.load(tmp_path / "importance.safetensors")


def test_which_layers_stay():
    turns = np.zeros((7, 7))
    for first in range(7):
        for last in range(first + 1, 7):
            turns[first, last] = [5, 1, 3, 0.5, 4, 6][first] if last == first + 1 else last - first + 0.1 * first
    turns[2, 4] = 0.1
    nothing = np.zeros(0)
    scores = Importance(nothing, nothing, nothing, turns, np.array([1]))
    assert least_influential(scores, 2) == (0, 2, 4, 5)
    assert without_block(scores, 2) == (0, 1, 4, 5)
    assert without_block(scores, 0) == tuple(range(6))
    with pytest.raises(ModelError, match="6 of 6 layers"):
        without_block(scores, 6)


def test_shapes_that_can_not_be_are_refused():
    teacher = tiny_model("llama")
    scores = measure_importance(teacher, CORPUS, length=16)
    for shape, message in (
        (Shape(ffn=49), "ffn = 49 can't be had of 48"),
        (Shape(heads=3), "a multiple of its 2 key-value heads"),
        (Shape(heads=0), "heads = 0"),
        (Shape(hidden=31), "no llama can be made"),
        (Shape(layers=()), "layers 0 to 3"),
        (Shape(layers=(0, 4)), "layers 0 to 3"),
    ):
        with pytest.raises(ModelError, match=message):
            prune(teacher, shape, scores)
    with pytest.raises(ModelError, match="of another model"):
        prune(teacher, Shape(ffn=10), measure_importance(tiny_model("gpt2"), CORPUS, length=16))


@pytest.mark.parametrize("share", [0.9, 0.6, 0.35])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi3"])
def test_a_share_of_the_parameters_is_met_from_below(family: str, share: float):
    big = {"hidden_size": 128, "intermediate_size": 512, "head_dim": 32} if family != "gpt2" else {"n_embd": 128}
    teacher = tiny_model(family, settings=SETTINGS[family] | big)
    axes = dict(cuttable_axes(teacher))
    if family == "gpt2" and share < 0.5:  # a third of it is attention, which can't get narrower
        with pytest.raises(ModelError, match="cut layers as well"):
            shape_of_share(teacher, axes, share)
        shape = shape_of_share(teacher, axes, share, start=Shape((0, 3)))
        assert shape == Shape((0, 3), ffn=shape.ffn)
        return
    shape = shape_of_share(teacher, axes, share)
    student, _ = prune(teacher, shape, measure_importance(teacher, CORPUS, length=16))
    found, whole = sizes_of(student).model.non_embedding, sizes_of(teacher).model.non_embedding
    assert 0.85 * share < found / whole <= share
    if "hidden" in axes:  # narrowed by about the same factor
        assert 0.4 < (shape.ffn / 512) / ((shape.hidden or 128) / 128) < 2.5


def test_the_cache_of_a_token_is_counted():
    teacher = tiny_model("llama")
    # 4 layers, keys and values of 2 heads of 8, four bytes each
    assert sizes_of(teacher).cache_bytes == 4 * 2 * 2 * 8 * 4


def test_layers_that_would_not_be_what_they_were_are_refused_whatever_else_is_cut():
    """GPT-2 can divide its attention by the number of the layer, which no configuration lets follow a moved layer."""
    teacher = tiny_model("gpt2", settings=SETTINGS["gpt2"] | {"scale_attn_by_inverse_layer_idx": True})
    scores = measure_importance(teacher, CORPUS, length=16)
    for shape in (Shape((0, 3)), Shape((0, 3), ffn=20)):
        with pytest.raises(ModelError, match="layer 3 of GPT2LMHeadModel can't become layer 1"):
            prune(teacher, shape, scores)


def test_losses_without_each_layer_decide_where_asked():
    teacher = tiny_model("llama", settings=SETTINGS["llama"])
    importance = measure_importance(teacher, CORPUS, length=16)
    with pytest.raises(ModelError, match="loss without a layer"):
        choose_layers("perplexity", LAYERS, 2, importance)
    found = with_losses(importance, teacher, CORPUS, length=16)

    def loss_of(model: PreTrainedModel) -> float:
        sums = measure(model, CORPUS, length=16)
        return float(sums.nll.sum() / sums.tokens.sum())

    whole = loss_of(teacher)
    for layer in range(LAYERS):
        student, _ = copy_layers(teacher, [one for one in range(LAYERS) if one != layer])
        assert found.losses[layer] == pytest.approx(loss_of(student) - whole, abs=1e-5)
    order = np.argsort(found.losses)
    assert choose_layers("perplexity", LAYERS, 2, found) == tuple(sorted(order[LAYERS - 2 :].tolist()))


@pytest.mark.parametrize(("choice", "stay"), [("run", 3), ("one_by_one", 3), ("even", 3), ("first_last", 3)])
def test_layers_are_chosen_by_name(choice: str, stay: int):
    teacher = tiny_model("llama", settings=SETTINGS["llama"])
    importance = measure_importance(teacher, CORPUS, length=16)
    expected = {
        "run": without_block(importance, LAYERS - stay),
        "one_by_one": least_influential(importance, LAYERS - stay),
        "even": (0, 2, 3),
        "first_last": (0, 1, 3),
    }[choice]
    assert choose_layers(choice, LAYERS, stay, importance) == expected
    with pytest.raises(ModelError, match="can't be copied"):
        choose_layers(choice, LAYERS, LAYERS + 1, importance)


def test_the_largest_shape_that_fits():
    teacher = tiny_model("llama", settings=SETTINGS["llama"])
    axes = dict(cuttable_axes(teacher))
    asked = []

    def fits(shape: Shape) -> bool:
        asked.append(shape)
        return size_of(shaped(teacher, shape, axes)).non_embedding <= 0.62 * size_of(teacher).non_embedding

    found = largest_shape(teacher, axes, fits)
    assert found == shape_of_share(teacher, axes, 0.6)
    assert len(asked) <= 6
    with pytest.raises(ModelError, match="as fast as that"):
        largest_shape(teacher, axes, lambda _: False)
    total = shape_of_size(teacher, axes, 0.7 * size_of(teacher).total)
    assert 0.4 < size_of(prune(teacher, total, Importance.unmeasured(teacher))[0]).total / size_of(teacher).total <= 0.7


def test_a_configuration_in_half_precision_is_looked_at_in_full():
    teacher = tiny_model("llama", settings=SETTINGS["llama"] | {"dtype": "bfloat16"})
    assert axis_of(teacher, "ffn") == axis_of(tiny_model("llama", settings=SETTINGS["llama"]), "ffn")


def test_nine_heads_leave_several_widths():
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 1,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    with torch.device("meta"):
        teacher = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings))
    shape = shape_of_share(teacher, dict(cuttable_axes(teacher)), 0.6)
    assert shape.hidden == 432
    assert shape.ffn is not None
    assert 0.65 < shape.ffn / 1536 < 0.8
