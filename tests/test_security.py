"""What the security page promises: nothing is unpickled, no foreign code runs, templates are locked in, keys stay out of files."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.data import read_documents
from potstill.errors import DataError, ModelError
from potstill.models import load_model, load_tokenizer

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "src" / "potstill").rglob("*.py"))
# What reads objects rather than numbers and words, or runs what it reads.
READERS = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch.load", "torch.hub", "yaml.load", "yaml.unsafe_load",
    "eval", "exec", "compile", "os.system", "subprocess.getoutput", "numpy.load", "np.load", "pandas.read_pickle",
}  # fmt: skip


def named(node: ast.expr) -> str:
    """`torch.load` of an attribute, `eval` of a name."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{named(value)}.{name}"
    return ""


def dangers(source: str) -> list[str]:
    """Calls and imports of READERS, code that is trusted from afar, and shells."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                found += [one.name for one in names if one.name.split(".")[0] in READERS]
            case ast.ImportFrom(module=str(module)):
                found += [module] if module.split(".")[0] in READERS else []
            case ast.Call(function, keywords=keywords):
                said = {one.arg: one.value for one in keywords}
                name = named(function)
                is_locked = name in ("np.load", "numpy.load") and _is(said.get("allow_pickle"), value=False)
                found += [name] if name in READERS and not is_locked else []
                found += (
                    ["trust_remote_code"]
                    if "trust_remote_code" in said and not _is(said["trust_remote_code"], value=False)
                    else []
                )
                found += ["shell"] if "shell" in said and not _is(said["shell"], value=False) else []
                found += ["weights_only"] if _is(said.get("weights_only"), value=False) else []
    return found


def _is(node: ast.expr | None, *, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_in_the_source_unpickles_or_runs_what_it_reads():
    assert {
        path.relative_to(ROOT).as_posix(): found for path in MODULES if (found := dangers(path.read_text("utf-8")))
    } == {}


def test_these_rules_notice_what_they_forbid():
    assert dangers("import pickle\nfrom joblib import load\nimport torch\ntorch.load(x)\nnp.load(x)\neval(x)") == [
        "pickle",
        "joblib",
        "torch.load",
        "np.load",
        "eval",
    ]
    assert dangers("np.load(x, allow_pickle=True)\nf(trust_remote_code=flag)\nrun(x, shell=True)") == [
        "np.load",
        "trust_remote_code",
        "shell",
    ]
    assert dangers("np.load(x, allow_pickle=False)\nf(trust_remote_code=False)\nrun(x, shell=False)") == []


WATCHED = """
import sys
unpickled = []
sys.addaudithook(lambda event, found: unpickled.append(found) if event == "pickle.find_class" else None)
from potstill.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not unpickled, unpickled
print("watched")
"""


@pytest.mark.slow
def test_a_whole_run_unpickles_nothing(tmp_path):
    """Labelled, distilled from the labels and exported, while every class that pickle looks up is noted."""
    text = tmp_path / "text"
    text.mkdir()
    for number in range(12):
        (text / f"{number}.txt").write_text(f"def f{number}(x):\n    return x + {number}\n" * 40, "utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[data]\nsource = "{text}"\n[teacher]\nmodel = "pocket"\n[student]\nkind = "copy_layers"\nlayers = 2\n'
        "[training]\nsteps = 2\nlength = 64\nrows = 2\n",
        "utf-8",
    )
    run = tmp_path / "run"
    for words in (
        ["label", str(recipe), "-o", str(tmp_path / "labels")],
        [
            "distill",
            str(recipe),
            "-o",
            str(run),
            "--set",
            "teacher.kind='stored'",
            "--set",
            f"teacher.labels='{tmp_path / 'labels'}'",
        ],
        ["export", str(run), "--to", "int4", "--out", str(tmp_path / "int4")],
    ):
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, (words, done.stdout[-2_000:], done.stderr[-2_000:])
        assert done.stdout.endswith("watched\n")


class Trap:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors", "tokenizer.json", "ids.npy"])
def test_a_pickle_by_any_name_stays_shut(name, tmp_path):
    sprung = tmp_path / "sprung"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ModelError):
        load_model(folder)
    with pytest.raises(ModelError):
        load_tokenizer(folder)
    assert not sprung.exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    folder = tmp_path / "model"
    folder.mkdir()
    own = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForCausalLM": "own.OwnModel",
        "AutoTokenizer": ["own.OwnTokenizer", None],
    }
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own", "architectures": ["OwnModel"], "auto_map": own})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": own, "tokenizer_class": "OwnTokenizer"}))
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(sprung)!r}).touch()\n")
    (folder / "model.safetensors").write_bytes(b"")
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError):
            load(folder)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for m in messages %}{{ m.__class__.__base__.__subclasses__()[0] }}{% endfor %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_chat_templates_are_locked_in(template, tmp_path):
    tokenizer = load_tokenizer("pocket")
    tokenizer.chat_template = template
    (tmp_path / "chat.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), "utf-8"
    )
    with pytest.raises(DataError):
        list(read_documents(tmp_path / "chat.jsonl", tokenizer=tokenizer))
