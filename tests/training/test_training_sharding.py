"""Two processes learn what one does: losses, gradients and student, whole weights or divided ones, and each goes on from the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from many_processes import DDP, FSDP2, OFFLOADED, STEPS, Trained, begin, make_store, together, trained

KINDS = {"ddp": DDP, "fsdp2": FSDP2, "offloaded": OFFLOADED}
HALF = STEPS // 2


def assert_same(found: Trained, expected: Trained, *, begin: int = 0) -> None:
    (steps, weights), (all_steps, all_weights) = found, expected
    assert len(all_steps["loss"][begin:]) == len(steps["loss"]) > 0
    for name in ("loss", "hard"):
        assert steps[name] == pytest.approx(all_steps[name][begin:], rel=1e-5)
    for name in steps.keys() - {"loss", "hard"}:
        # Beside its own average a student begins with nothing to learn from it: rounding is all there is.
        assert steps[name] == pytest.approx(all_steps[name][-len(steps[name]) :], rel=1e-4, abs=3e-6), name
    assert weights.keys() == all_weights.keys()
    for name, tensor in all_weights.items():
        if name.endswith("key.bias"):
            continue  # it changes no attention: its gradient is rounding, of which Adam makes steps
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=2e-5)


def beside_one(names: tuple[str, ...], kind: Mapping[str, str], folder: Path) -> None:
    store = make_store(folder / "store")
    found = together({name: {"case": name, "store": store} for name in names}, folder / "two", kind)
    for name in names:
        assert_same(found[name], trained(name, store=store))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", pytest.param("offloaded", marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_does(kind, tmp_path: Path):
    """Over fifty steps of several sizes, of completions that give the processes unequal weights; by a live teacher and by a store."""
    beside_one(("live", "store"), KINDS[kind], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_so_they_do_with_all_that_can_be_added(kind, tmp_path: Path):
    beside_one(("untied", "masked", "average", "features", "lora", "checkpointing", "int4"), KINDS[kind], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_another_number_of_processes(kind, tmp_path: Path):
    """Two processes begin and one goes on; one begins and two go on; both as one that was never disturbed."""
    begun, taken_up = {}, {}
    for case in ("live", "features", "average"):
        begun[f"{case}-begun"] = {"case": case, "until": HALF, "folder": tmp_path / f"{case}-by-two"}
        trained(case, until=HALF, folder=tmp_path / f"{case}-by-one")
        taken_up[f"{case}-taken-up"] = {"case": case, "folder": tmp_path / f"{case}-by-one"}
    found = together(begun | taken_up, tmp_path / "two", KINDS[kind])
    for case in ("live", "features", "average"):
        undisturbed = trained(case)
        assert_same(trained(case, folder=tmp_path / f"{case}-by-two"), undisturbed, begin=HALF)
        assert_same(found[f"{case}-taken-up"], undisturbed, begin=HALF)


@pytest.mark.slow
def test_in_sixteen_bits_they_learn_what_one_does_up_to_rounding(tmp_path: Path):
    """Ten steps: later ones are far from each other, as one rounding moves all that follows."""
    cases = ("live", "masked", "lora", "checkpointing", "int4")
    asked = {name: {"case": name, "dtype": "bfloat16", "steps": 10} for name in cases}
    found = together(asked, tmp_path, FSDP2)
    for name in cases:
        alone, _ = trained(name, dtype="bfloat16", steps=10)
        assert found[name][0]["loss"] == pytest.approx(alone["loss"], rel=2e-3), name
        assert found[name][0]["loss"][0] == pytest.approx(alone["loss"][0], rel=1e-4), name


SIXTEEN_BITS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from many_processes import Ragged, corpus, llama
from potstill.losses import HARD_LABELS
from potstill.training import TrainingSettings, train
from potstill.training.learner import Objective

# No batch here has as many tokens as a matrix has rows: activations have other shapes.
student, saved, dtypes, held = llama(layers=3, width=40, seed=3), [], {}, []
matrices = {tuple(w.shape) for name, w in student.named_parameters() if ".layers." in name and w.ndim == 2}
forward = Objective.forward

def kept(tensor):
    saved.append(tensor)
    return tensor

def listening(objective, *arguments):
    for name, module in objective.student.model.layers[0].named_modules():
        if name.endswith(("norm", "proj")):
            module.register_forward_hook(lambda module, *_, name=name: dtypes.update({name: str(module.weight.dtype)}))
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        found = forward(objective, *arguments)
    copies = [one for one in saved if one.dtype == torch.bfloat16 and {tuple(one.shape), tuple(one.shape)[::-1]} & matrices]
    held.append([len(copies), sum(one.untyped_storage().nbytes() for one in copies)])
    return found

Objective.forward = listening
next(train(student, None, Ragged(corpus()), HARD_LABELS, TrainingSettings(steps=1, dtype=torch.bfloat16)))
print(json.dumps([dtypes, held]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_in_sixteen_bits_no_copy_of_a_layer_outlives_it():
    """Between the forward pass and the backward pass; matrices are rounded once, as autocast does, and norms are not."""
    for rank in begin(2, ["-c", SIXTEEN_BITS, str(Path(__file__).parent)], FSDP2):
        said, errors = rank.communicate(timeout=240)
        assert rank.returncode == 0, said + errors[-3000:]
        dtypes, ((copies, held),) = json.loads(said)
        assert copies == 3 * 7
        assert held == 0
        assert {dtype for name, dtype in dtypes.items() if name.endswith("proj")} == {"torch.bfloat16"}
        norms = {dtype for name, dtype in dtypes.items() if "norm" in name}
        assert norms == {"torch.float32"}


OTHER_TEXT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from many_processes import Ragged, corpus, llama
from potstill.errors import DataError
from potstill.losses import HARD_LABELS
from potstill.training import TrainingSettings, train

text, settings = corpus(), TrainingSettings(steps=2)
mine = text if os.environ["RANK"] == "0" else text.select(list(range(1, len(text))))
try:
    next(train(llama(layers=1, width=16, seed=0), None, Ragged(mine), HARD_LABELS, settings))
except DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_processes_that_read_other_text_are_refused():
    ranks = begin(2, ["-c", OTHER_TEXT, str(Path(__file__).parent)], DDP)
    for rank in ranks:
        said, errors = rank.communicate(timeout=240)
        assert said.startswith("the 2 processes of this run read other text: give all of them the same files"), errors
