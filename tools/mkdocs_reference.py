"""Reference pages, made from the code: a line `<!-- made from the code: WHAT -->` in a page of docs/reference/ is replaced.

WHAT is `verbs` (the command line), `settings` (what recipes can say), `rooms` (each room's own page) or `room NAME` (its public names,
which mkdocstrings describes).
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "potstill"
MARKER = re.compile(r"^<!-- made from the code: (\w+) ?(\w*) -->$", re.MULTILINE)
Schema = Mapping[str, object]


def filled_in(markdown: str) -> str:
    """The page with its markers replaced."""
    makers = {"verbs": lambda _: verbs(), "settings": lambda _: settings(), "rooms": lambda _: rooms(), "room": room}
    return MARKER.sub(lambda found: makers[found[1]](found[2]), markdown)


def verbs() -> str:
    """Every verb of the command line with its arguments and options."""
    import typer

    from potstill.cli.app import app

    group = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        with typer.Context(command, info_name=f"potstill {name}") as context:
            rows = [row for parameter in command.get_params(context) if (row := described(parameter, context))]
            usage = " ".join([context.info_name or name, *command.collect_usage_pieces(context)])
        table = ["| | |", "| --- | --- |", *rows] if rows else []
        parts.append("\n".join([f"## {name}", "", command.help or "", "", "```", usage, "```", "", *table]))
    return "\n\n".join(parts) + "\n"


def described(parameter: object, context: object) -> str | None:
    if "--help" in parameter.opts:
        return None
    if parameter.param_type_name == "argument":
        return row(code(parameter.name), parameter.help or "")
    names, text = parameter.get_help_record(context)
    return row(code(names), text)


def settings() -> str:
    """Every table of a recipe, and of a recipe for `potstill write`."""
    from potstill.recipe import WritingRecipe, json_schema

    parts = ["## Recipes of distill, compress, label, information", *tables(json_schema())]
    parts += ["## Recipes of write", *tables(WritingRecipe.model_json_schema())]
    return "\n\n".join(parts) + "\n"


def tables(schema: Schema) -> Iterator[str]:
    definitions = schema.get("$defs", {})
    yield from table_of(schema, "", definitions, frozenset())


def table_of(schema: Schema, place: str, definitions: Schema, above: frozenset[str]) -> Iterator[str]:
    """A table's own settings, then the tables in it. `above`: the tables it lies in, for those that may hold themselves."""
    rows, inner = [], []
    for name, setting in schema.get("properties", {}).items():
        held = [ref for ref in references(setting) if ref not in above]
        inner += [(f"{place}.{name}".lstrip("."), setting, ref) for ref in held]
        text = setting.get("description", "")
        if held and not text:
            text = "a table, below"
        must = "needed" if name in schema.get("required", ()) else default(setting)
        rows.append(row(code(name), allowed(setting, definitions), must, text))
    if place:
        title = schema.get("properties", {}).get("kind", {}).get("const")
        yield f"### {place}" + (f', kind = "{title}"' if title else "")
        yield schema.get("description", "")
    yield "\n".join(["| setting | may be | default | |", "| --- | --- | --- | --- |", *rows])
    for where, _, ref in inner:
        yield from table_of(definitions[ref], where, definitions, above | {ref})


def references(setting: Schema) -> list[str]:
    """Names of the tables that a setting may hold."""
    found = [setting["$ref"].rpartition("/")[2]] if "$ref" in setting else []
    for key in ("anyOf", "oneOf", "allOf"):
        found += [ref for one in setting.get(key, ()) for ref in references(one)]
    return found + (references(setting["items"]) if isinstance(setting.get("items"), Mapping) else [])


def allowed(setting: Schema, definitions: Schema) -> str:
    if "const" in setting:
        return code(f'"{setting["const"]}"')
    if "enum" in setting:
        return ", ".join(code(f'"{one}"') for one in setting["enum"])
    if "$ref" in setting:
        return "table"
    for key in ("anyOf", "oneOf"):
        if key in setting:
            each = [allowed(one, definitions) for one in setting[key] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(each))
    if setting.get("type") == "array":
        return "list of " + (allowed(setting["items"], definitions) if setting.get("items") else "values")
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    words = {
        "number": "number",
        "integer": "whole number",
        "string": "text",
        "boolean": "true, false",
        "object": "table",
    }
    said = [f"{sign} {setting[key]:g}" for key, sign in limits.items() if key in setting]
    return " ".join([words.get(str(setting.get("type")), "anything"), *([", ".join(said)] if said else [])])


def default(setting: Schema) -> str:
    value = setting.get("default")
    if value is None or isinstance(value, Mapping):
        return ""
    return code({True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value).replace("'", '"'))


def rooms() -> str:
    """Each room's own page, as its `__init__.py` has it."""
    pages = sorted(PACKAGE.glob("*/__init__.py"))
    return "\n\n".join(f"## {page.parent.name}\n\n{docstring_of(page)}" for page in pages) + "\n"


def room(name: str) -> str:
    """A room's page and its public names, for mkdocstrings."""
    file = PACKAGE / f"{name}.py"
    page = file if file.is_file() else PACKAGE / name / "__init__.py"
    names = [f"::: potstill.{name}.{public}" for public in public_names()[name]]
    return "\n\n".join([docstring_of(page), *names]) + "\n"


def docstring_of(page: Path) -> str:
    return f"```text\n{ast.get_docstring(ast.parse(page.read_text('utf-8')))}\n```"


def public_names() -> dict[str, list[str]]:
    """room -> names that `import potstill` offers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "potstill." in (node.module or "")
    ]
    return {node.module.removeprefix("potstill."): [alias.name for alias in node.names] for node in imports}


def row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`{text}`"
