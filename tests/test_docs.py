"""Every code block of README.md and docs/ is what this version understands: verbs, options, settings, recipes, names, links."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import pytest
import typer

from potstill.cli.app import app
from potstill.recipe import Recipe, WritingRecipe, json_schema, load_recipe, load_writing, starter_recipes
from potstill.recipe.decode import decode_as
from potstill.recipe.schema import LENGTHS_OF_TRAINING

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<before>(?:<!--.*-->\n)?)```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)")
OURS = ("potstill", ".venv/bin/potstill")
# What a block leaves out of a recipe.
DISTILLING = {
    "teacher": {"model": "pocket"},
    "student": {"kind": "copy_layers", "layers": 2},
    "data": {"source": "standard-library"},
    "training": {"steps": 1},
}
WRITING = {"writer": {"kind": "local", "model": "pocket"}, "prompts": {"source": "prompts.jsonl"}}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `runs`: a comment above it says that the test runs it."""

    page: Path
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [
        block for page in PAGES for block in blocks_of(page.read_text("utf-8"), page) if block.language in languages
    ]


def blocks_of(text: str, page: Path) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["text"], found["before"] == "<!-- runs -->\n")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block: lines that go on joined, comments dropped, pipes and lists taken apart."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        for word in takewhile(lambda word: not word.startswith("#"), lexer):
            if set(word) <= set("|&;"):
                yield words
                words = []
            else:
                words.append(word)
        yield words


def asked_of_us(text: str) -> list[list[str]]:
    """What follows `potstill` in each command that starts it, by whatever launcher."""
    found = []
    for words in commands(text):
        words = [word for i, word in enumerate(words) if i or "=" not in word]
        if words and words[0] in OURS:
            found.append(words[1:])
        elif "-m" in words and "potstill" in words:
            found.append(words[words.index("potstill") + 1 :])
    return [words for words in found if words]


@cache
def verbs() -> Mapping[str, object]:
    return typer.main.get_command(app).commands


def check_command(words: list[str], *, whole: bool = True) -> None:
    """The verb exists, takes these options, has its arguments where it is `whole`, and every --set names a setting."""
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version"), words[0]
        return
    assert words[0] in verbs(), f"there is no verb {words[0]}"
    command = verbs()[words[0]]
    options = [word for word in words[1:] if word not in ("--help", "-h")]
    whole = whole and len(options) == len(words) - 1
    with typer.Context(command, info_name=words[0]) as context:
        given, left, _ = command.make_parser(context).parse_args(args=list(options))
        assert not left, f"{left} are too many"
        for parameter in command.get_params(context):
            if given.get(parameter.name) is not None or (parameter.required and whole):
                parameter.process_value(context, given.get(parameter.name))
    for setting in given.get("sets") or ():
        check_setting(setting.partition("=")[0])
    if words[0] == "recipes" and given.get("name"):
        assert given["name"] in {starter.name for starter in starter_recipes()}


@cache
def schemas() -> tuple[Mapping[str, object], ...]:
    return json_schema(), WritingRecipe.model_json_schema()


def check_setting(name: str) -> None:
    """`training.rows` is a setting of some recipe."""
    assert any(is_setting(schema, name.split("."), schema.get("$defs", {})) for schema in schemas()), (
        f"no setting {name}"
    )


def is_setting(schema: Mapping[str, object], path: list[str], tables: Mapping[str, object]) -> bool:
    if "$ref" in schema:
        return is_setting(tables[schema["$ref"].rpartition("/")[2]], path, tables)
    if any(is_setting(one, path, tables) for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, ()) if one):
        return True
    if not path:
        return True
    if isinstance(schema.get("additionalProperties"), Mapping) or (
        schema.get("type") == "object" and not schema.get("properties")
    ):
        return True
    inner = schema.get("properties", {}).get(path[0])
    return inner is not None and is_setting(inner, path[1:], tables)


def settings_in(tables: Mapping[str, object], place: str = "") -> Iterator[str]:
    """Every setting of a TOML block as `loss.hidden.kind`; those of lists of tables by their list."""
    for key, value in tables.items():
        inner = value if isinstance(value, list) else [value]
        held = [one for one in inner if isinstance(one, dict)]
        yield f"{place}{key}"
        for one in held:
            if not isinstance(value, list):
                yield from settings_in(one, f"{place}{key}.")


def is_ours(tables: Mapping[str, object]) -> bool:
    return bool(set(tables) & {*Recipe.model_fields, *WritingRecipe.model_fields})


@cache
def names_of(module: str) -> set[str]:
    """What a module of ours defines or imports, read from its source: importing torch takes too long here."""
    path = ROOT / "src" / Path(*module.split("."))
    page = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(page.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found | {one.stem for one in path.glob("*.py")} | {one.name for one in path.glob("*/")}


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def heading_ids(page: Path) -> set[str]:
    """How headings are called in links, on the forge and in the site alike."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", one).lower()).strip().replace(" ", "-") for one in headings}


@pytest.mark.parametrize("block", blocks("sh", "bash"), ids=str)
def test_commands_are_understood(block: Block):
    for words in asked_of_us(block.text):
        check_command(words)
    for word in (word for words in commands(block.text) for word in words):
        if re.match(r"(recipes|examples|benchmarks|tools)/[\w./-]+\.\w+$", word):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("block", blocks("sh", "bash"), ids=str)
def test_what_make_is_asked_for_exists(block: Block):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(block.text):
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_sentences_name_exists(page: Path):
    for code in re.findall(r"`([^`\n]+)`", without_blocks(page)):
        if code.startswith("potstill ") and not re.search(r"\b[A-Z]{4,}\b", code):
            for words in asked_of_us(code):
                check_command(words, whole=False)
        found = re.fullmatch(r"\[{0,2}(\w+(?:\.\w+)+)\]{0,2}(?: = .*)?", code)
        if found and is_ours({found[1].partition(".")[0]: {}}) and not found[1].endswith((".py", ".md", ".json")):
            check_setting(found[1])


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_tables_are_settings(block: Block):
    tables = tomllib.loads(block.text)
    assert is_ours(tables), f"{sorted(tables)} are no tables of a recipe"
    for setting in settings_in(tables):
        check_setting(setting)
    kind, whole = (WritingRecipe, WRITING) if set(tables) & {"writer", "output"} else (Recipe, DISTILLING)
    decode_as(
        kind, {name: joined(whole.get(name), tables.get(name)) for name in {**whole, **tables}}, source=str(block)
    )


def joined(table: dict[str, object] | None, said: object) -> object:
    """What a block says, on top of what it leaves out; its own kind, or its own length of training, takes the place of ours."""
    if not isinstance(said, dict) or table is None:
        return table if said is None else said
    if "kind" in said or set(said) & set(LENGTHS_OF_TRAINING):
        table = {key: value for key, value in table.items() if key not in {"kind", "layers", *LENGTHS_OF_TRAINING}}
    return {**table, **said}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles_and_its_names_exist(block: Block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "potstill":
            assert {alias.name for alias in node.names} <= names_of(node.module), node.module
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("ps", "potstill"):
            assert node.attr in names_of("potstill")


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in blocks("python") if block.runs], ids=str)
def test_python_that_says_so_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_the_places_they_name_exist(page: Path):
    for target, place in LINK.findall(without_blocks(page)):
        path = page.parent / target if target else page
        assert path.is_file(), f"{target} is no file"
        if place and path.suffix == ".md":
            assert place in heading_ids(path), f"{target} has no heading #{place}"


def test_recipes_named_in_pages_decode():
    for path in sorted({*re.findall(r"recipes/[\w-]+\.toml", "".join(page.read_text("utf-8") for page in PAGES))}):
        text = tomllib.loads((ROOT / path).read_text("utf-8"))
        load_writing(ROOT / path) if "writer" in text else load_recipe(ROOT / path)


def test_reference_pages_hold_every_verb_setting_and_public_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    reference = import_module("mkdocs_reference")
    assert re.findall(r"^## ([\w-]+)$", reference.verbs(), re.MULTILINE) == list(verbs())
    assert "| `-k, --keep <list[str]>` |" in reference.verbs()
    said = reference.settings()
    assert {name for name in Recipe.model_fields if f"\n| `{name}` |" not in said} == set()
    assert "| `alpha` | number ≥ 0, ≤ 1 | `1.0` |" in said
    assert '### student, kind = "prune"' in said
    pages = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
    for room, names in reference.public_names().items():
        made = reference.filled_in(pages[room])
        assert [name for name in names if f"::: potstill.{room}.{name}\n" not in made] == []


def test_pages_are_in_the_sites_menu():
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("design/") and f" {page}\n" not in menu} == set()


def test_these_checks_notice_what_is_wrong():
    for wrong in ("distil x.toml", "distill a b", "compress m -s loss.alfa=1", "recipes distil"):
        with pytest.raises(AssertionError):
            check_command(shlex.split(wrong))
    for wrong in ("distill", "distill x.toml --sett a=1", "compress m --minutes 0"):
        with pytest.raises(type(typer.BadParameter("")).__mro__[1]):
            check_command(shlex.split(wrong))
    check_command(shlex.split("compress m -d notes/ --keep 95% -s loss.alpha=0.5"))
    assert asked_of_us("A=1 potstill check \\\n x.toml  # why\nls | .venv/bin/potstill draft a b") == [
        ["check", "x.toml"],
        ["draft", "a", "b"],
    ]
    [block] = blocks_of("<!-- runs -->\n```python\nx = 1\n```\n", ROOT / "README.md")
    assert block.runs
    assert block.line == 2
