"""Recipes for `potstill write`: what is refused, and in which words."""

import pytest

from potstill.errors import DataError, PotstillError, RecipeError
from potstill.recipe import build_writing, load_writing

LOCAL = '[writer]\nkind = "local"\nmodel = "pocket"\n[prompts]\nsource = "p.jsonl"\n'
SERVER = LOCAL.replace('"local"', '"server"\nurl = "http://127.0.0.1:9/v1"')


def loaded(tmp_path, toml: str, *sets: str):
    path = tmp_path / "w.toml"
    path.write_text(toml)
    return load_writing(path, sets=sets)


def test_defaults_and_settings(tmp_path):
    recipe = loaded(tmp_path, LOCAL, "sampling.best_of=4", 'filters=[{kind="exact"}, {kind="length", max_tokens=9}]')
    assert recipe.name == "w"
    assert (recipe.sampling.best_of, recipe.sampling.temperature) == (4, 1.0)
    assert [one.kind for one in recipe.filters] == ["exact", "length"]
    assert loaded(tmp_path, SERVER).writer.endpoint == "chat"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (LOCAL.replace('"local"', '"locale"'), 'writer.kind: needs "local" or "server".*did you mean "local"'),
        (LOCAL + "max_promts = 3\n", "prompts.max_promts: no such setting.*did you mean `max_prompts`"),
        (LOCAL + '[[filters]]\nkind = "exacty"\n', r'filters\[0\].kind: needs "exact",.*did you mean "exact"'),
        (LOCAL + '[[filters]]\nkind = "regex"\n', r"filters\[0\].pattern: is missing"),
        (
            LOCAL + '[[filters]]\nkind = "exact"\n[[filters]]\nkind = "length"\nmin_token = 3\n',
            r"filters\[1\].min_token: no such setting.*did you mean `min_tokens`",
        ),
        (
            LOCAL + '[[filters]]\nkind = "length"\nmin_tokens = -1\n',
            r"filters\[0\].min_tokens: needs a number at least 0",
        ),
        (LOCAL + "[[filters]]\nmin_tokens = 1\n", r"filters\[0\].kind: is missing; it is"),
        (LOCAL + '[[filters]]\nkind = "duplicates"\n' * 1 + '[[filters]]\nkind = "duplicates"\n', "one is enough"),
        (LOCAL + 'template = "Q:"\n', r"`template` has no \{prompt\}"),
        (LOCAL + "[sampling]\nbest_of = 2\ntemperature = 0\n", "all the same"),
        (LOCAL + "[output.steps]\nshare = 0.5\n", "needs output.rationale_pattern"),
        (SERVER + "chat = true\n", "writer.endpoint"),
        (LOCAL + "chat = true\n[output]\ncut = true\n", "output.cut keeps plain texts alone"),
        (SERVER + "[output]\ncut = true\n", "output.cut keeps plain texts alone"),
        ('[prompts]\nsource = "p"\n', "writer: is missing"),
    ],
)
def test_what_can_not_be_meant(tmp_path, toml, said):
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        loaded(tmp_path, toml)


@pytest.mark.parametrize(
    "line",
    [
        'key_from = "sk-hush-1"',
        'key_from = "sk_hush_1"',
        'url = "http://me:sk-hush-1@host/v1"',
    ],
)
def test_secrets_in_a_recipe_are_refused(tmp_path, line):
    toml = SERVER.replace('url = "http://127.0.0.1:9/v1"', line if "url" in line else f'url = "http://h/v1"\n{line}')
    with pytest.raises(RecipeError) as error:
        loaded(tmp_path, toml)
    assert "hush" not in str(error.value)
    assert "no file" in str(error.value)


def test_what_stands_where_a_key_may_is_not_shown(tmp_path):
    for toml, sets in (
        (SERVER.replace("[writer]", '[writer]\napi_key = "sk-hush-1"'), []),
        (SERVER, ["writer.key_from=sk-hush-1"]),
        (SERVER, ["writer.api_key=sk-hush-1"]),
    ):
        with pytest.raises(RecipeError) as error:
            loaded(tmp_path, toml, *sets)
        assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (LOCAL + 'system = "Be brief."\n', "prompts.chat = true"),
        (LOCAL + '[[filters]]\nkind = "exact"\n', "line 1 has no 'answer'"),
        (LOCAL + '[[filters]]\nkind = "found"\npattern = "("\n', "no regular expression"),
        (LOCAL + '[[filters]]\nkind = "python"\nfunction = "nowhere:f"\n', "no function 'nowhere:f'"),
        (LOCAL + '[output]\nrationale_pattern = "(.*)"\n', "needs the groups"),
        (LOCAL.replace("p.jsonl", "pp.jsonl"), "did you mean"),
        (LOCAL + '[prompts.columns]\nprompt = "question"\n', "needs 'question'"),
        (LOCAL + "[sampling]\nmax_new_tokens = 600\n", "longer than the context"),
    ],
)
def test_what_can_not_be_done(tmp_path, toml, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(PotstillError, match=said) as error:
        build_writing(loaded(tmp_path, toml), say=lambda _: None)
    assert isinstance(error.value, DataError | RecipeError | PotstillError)
