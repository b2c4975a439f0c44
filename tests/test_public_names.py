"""What `import potstill` offers, and what it costs."""

import ast
import runpy
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import potstill

# A name added here is a promise, a name removed is a break: both belong in CHANGELOG.md.
PUBLIC_NAMES = {
    "types": ["Batch", "DenseTargets", "Head", "HiddenStates", "Lineage", "Loss", "Score", "SoftTargets", "SparseTargets", "Teacher"],
    "data": ["ClassBatches", "MaskedBatches", "Masking", "PackedBatches", "TokenCorpus", "read_documents", "tokenize"],
    "teachers": ["FakeTeacher", "LiveTeacher", "shared_vocabulary"],
    "losses": ["AlphaBeta", "AttentionMapLoss", "AttentionRelationLoss", "FeatureLoss", "ForwardKL", "HiddenLoss", "JensenShannon",
               "Projection", "ReverseKL",
               "SkewForwardKL", "SkewReverseKL", "SoftLabelLoss", "TotalVariation"],
    "models": ["load_model", "load_tokenizer", "save_model"],
    "students": ["Shape", "choose_layers", "copy_layers", "ends_of_blocks", "evenly_spaced", "first_and_last",
               "fresh", "last_layers", "measure_importance", "prune"],
    "training": ["TrainingSettings", "train", "train_classifier"],
    "evaluation": ["difference", "measure", "retention", "score"],
    "errors": ["DataError", "LossError", "MissingExtraError", "ModelError", "NotFiniteError", "PotstillError", "RecipeError",
               "RunDirectoryError", "VocabularyError"],
}  # fmt: skip
ALL_NAMES = [name for names in PUBLIC_NAMES.values() for name in names]

HEAVY = {"torch", "transformers", "datasets", "accelerate", "numpy", "pyarrow", "matplotlib", "pydantic", "jaxtyping"}
MEASURED = """
import sys, time
started = time.process_time()
{statement}
print(time.process_time() - started)
print(*sorted(sys.modules))
"""


def cost_of(statement: str) -> tuple[float, set[str]]:
    """CPU seconds of a statement in a fresh interpreter, and which heavy packages it brought in."""
    code = MEASURED.format(statement=statement)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    return float(said[-2]), set(said[-1].split()) & HEAVY


def imported_for_editors() -> dict[str, list[str]]:
    """room -> names, from the imports that editors and type checkers read."""
    tree = ast.parse(Path(potstill.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    rooms = {
        node.module.removeprefix("potstill."): node for node in imports if (node.module or "").startswith("potstill.")
    }
    return {room: [alias.name for alias in node.names] for room, node in rooms.items()}


def test_the_public_names_are_these():
    assert sorted(potstill.__all__) == sorted([*ALL_NAMES, "__version__"])


def test_each_comes_from_its_room():
    for room, names in PUBLIC_NAMES.items():
        for name in names:
            assert getattr(potstill, name) is getattr(import_module(f"potstill.{room}"), name)
    assert set(ALL_NAMES) <= set(dir(potstill))


def test_editors_are_told_the_same_names():
    assert imported_for_editors() == PUBLIC_NAMES


def test_the_version_is_the_installed_one():
    assert potstill.__version__ == version("potstill")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="forward_kl"):
        potstill.forward_kl  # noqa: B018


def test_importing_potstill_is_cheap():
    seconds, heavy = cost_of("import potstill")
    assert heavy == set()
    assert seconds < 0.3


def test_asking_for_help_is_cheap():
    statement = (
        "from typer.testing import CliRunner; from potstill.cli.app import app; CliRunner().invoke(app, ['--help'])"
    )
    seconds, heavy = cost_of(statement)
    assert heavy <= {"pydantic"}
    assert seconds < 0.7


def test_a_room_comes_with_its_first_name():
    _, heavy = cost_of("import potstill; potstill.ForwardKL")
    assert "torch" in heavy


def test_calls_verbs_and_keys_are_the_promised_ones():
    """Regenerate by `python tools/public_api.py > tests/public_api.txt`, and tell what came or went in CHANGELOG.md."""
    here = Path(__file__).parent
    found = runpy.run_path(str(here.parent / "tools/public_api.py"))["listing"]()
    assert found == (here / "public_api.txt").read_text("utf-8").splitlines()
