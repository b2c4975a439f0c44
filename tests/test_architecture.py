"""What keeps the house the house: floors, sizes, names, docstrings, maps that are true."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "potstill"
ROOMS = sorted(page.parent for page in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 60
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "base", "misc", "stuff", "v2", "cfg"}
OUTSIDE = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["work", "root", "home", "Users", "tmp", "mnt"]) + r")/\w")
HOST = re.compile("|".join([r"pypi\.", r"pythonhosted\.", r"download\.pytorch\.", r"registry\.npmjs\."]))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def definitions(tree: ast.Module) -> Iterator[Definition]:
    """Every function and class at the top of a module, and the methods of its public classes."""
    for node in tree.body:
        if isinstance(node, Definition):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (method for method in node.body if isinstance(method, Definition))


def without_docstring(source: str) -> list[str]:
    return [
        found.name
        for found in definitions(ast.parse(source))
        if not found.name.startswith("_") and ast.get_docstring(found) is None
    ]


def too_long(source: str) -> list[str]:
    """Functions over the limit that don't say why: a comment that begins with "Long:" right above them."""
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        says_why = first > 1 and lines[first - 2].strip().startswith("# Long:")
        if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION and not says_why:
            found.append(node.name)
    return found


def forbidden_words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name that say nothing."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return FORBIDDEN_NAMES & set(words)


def imported_packages(source: str) -> set[str]:
    """Full names of the modules a source imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
    return found


def committed_texts() -> list[Path]:
    """Everything written by hand in this repository, as far as it is text."""
    folders = ["src", "tests", "tools", "docs", "recipes", "examples", "benchmarks", ".ci"]
    suffixes = {".py", ".md", ".toml", ".sh", ".css", ".html", ".svg", ".json", ""}
    inside = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    files = [path for path in [*sorted(ROOT.glob("*")), *inside] if path.is_file() and path.suffix in suffixes]
    return [path for path in files if path != Path(__file__) and "__pycache__" not in path.parts]


def test_a_room_imports_only_from_the_floors_below():
    command = Path(sys.executable).parent / "lint-imports"
    linted = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_losses_know_torch_and_the_nouns_alone():
    allowed = {"torch", "jaxtyping", "potstill.types", "potstill.errors", "potstill.losses"} | sys.stdlib_module_names
    for path in (PACKAGE / "losses").glob("*.py"):
        for module in imported_packages(path.read_text(encoding="utf-8")):
            assert module.split(".")[0] in allowed or ".".join(module.split(".")[:2]) in allowed, (shown(path), module)


def test_only_recipes_and_the_command_line_know_toml():
    knowing = {path.relative_to(PACKAGE).parts[0] for path in MODULES if "tomllib" in path.read_text(encoding="utf-8")}
    assert knowing <= {"recipe", "cli"}


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=shown)
def test_a_file_fits_in_the_head(path: Path):
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    assert lines <= MOST_LINES_OF_A_FILE or path.parent.name == "conformance", f"{lines} lines"
    assert too_long(source) == []


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_whatever_is_public_says_what_it_does(path: Path):
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), "the file has no docstring"
    assert without_docstring(source) == []


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_names_say_what_they_mean(path: Path):
    names = [path.parent.name, path.stem, *(found.name for found in definitions(ast.parse(path.read_text("utf-8"))))]
    assert {name: words for name in names if (words := forbidden_words(name))} == {}


@pytest.mark.parametrize("room", ROOMS, ids=shown)
def test_a_rooms_page_lists_its_files(room: Path):
    page = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    files = {path.name for path in room.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\b\w+\.py\b", page)) == files


@pytest.mark.parametrize("room", ROOMS, ids=shown)
def test_a_room_has_tests(room: Path):
    patterns = [f"{room.name}/test_{room.name}_*.py", f"conformance/test_conformance_{room.name}.py"]
    assert [path for pattern in patterns for path in (ROOT / "tests").glob(pattern)]


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_the_readme_maps_every_room():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [room.name for room in ROOMS if not re.search(rf"^  {room.name}/ ", readme, re.MULTILINE)] == []


def test_links_between_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (shown(page), target)


def test_nothing_written_here_names_a_machine_or_a_registry():
    found = {
        shown(path): [*OUTSIDE.findall(text), *HOST.findall(text)]
        for path in committed_texts()
        if (text := path.read_text(encoding="utf-8")) and (OUTSIDE.search(text) or HOST.search(text))
    }
    assert found == {}


def test_git_sees_every_module():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    ignored = subprocess.run(["git", "check-ignore", *MODULES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout == "", "a pattern in .gitignore hides these from commits"


def test_the_lock_holds_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    [ours] = [package for package in lock["package"] if package["name"] == "potstill"]
    asked = [*project["project"]["dependencies"], *chain(*project["project"]["optional-dependencies"].values())]
    locked = {(entry["name"], entry.get("specifier")) for entry in ours["metadata"]["requires-dist"]}
    assert {split_requirement(text) for text in asked} == locked
    for group, requirements in project["dependency-groups"].items():
        locked = {(entry["name"], entry.get("specifier")) for entry in ours["metadata"]["requires-dev"][group]}
        assert {split_requirement(text) for text in requirements} == locked


def split_requirement(text: str) -> tuple[str, str]:
    [(name, specifier)] = re.findall(r"^([\w-]+)(?:\[[\w,]+\])?(.*)$", text)
    return name, specifier


def test_these_rules_notice_what_they_forbid():
    assert without_docstring("class A:\n    '''A.'''\n    def b(self): ...\n    def _c(self): ...\ndef d(): ...\n") == [
        "b",
        "d",
    ]
    body = "    x = 1\n" * MOST_LINES_OF_A_FUNCTION
    assert too_long(f"def f():\n{body}") == ["f"]
    assert too_long(f"# Long: one table.\ndef f():\n{body}") == []
    assert forbidden_words("BatchManager") == {"manager"}
    assert forbidden_words("database") == set()
    assert imported_packages("def f():\n    from a.b import c\nimport d") == {"a.b", "d"}
    assert OUTSIDE.search("see /" + "tmp/x")
    assert not OUTSIDE.search("docs/work/x")
