from pathlib import Path

import pytest

from potstill.errors import RecipeError
from potstill.recipe import Recipe, decode, load_recipe
from potstill.recipe.kinds import CopiedStudent, ForwardKLTable, JensenShannonTable
from potstill.recipe.mistakes import _CALLED_ELSEWHERE, _all_places

MINIMAL = """
[teacher]
model = "big"
[student]
kind = "copy_layers"
layers = 4
[data]
source = "notes.txt"
[training]
steps = 10
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(MINIMAL)
    return path


def rejected(toml: str, tmp_path: Path, sets: tuple[str, ...] = ()) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(toml)
    with pytest.raises(RecipeError) as error:
        load_recipe(path, sets=sets)
    return str(error.value)


def test_what_is_left_out_has_the_documented_default(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.name == "tiny"
    assert recipe.student == CopiedStudent(kind="copy_layers", layers=4, choose="even")
    assert (recipe.data.held_out, recipe.data.search, recipe.data.max_documents) == (0.10, 0.05, None)
    assert recipe.loss.divergence == ForwardKLTable()
    assert (recipe.loss.temperature, recipe.loss.alpha) == (1.0, 1.0)
    training = recipe.training
    assert (training.length, training.rows, training.micro_rows, training.learning_rate) == (512, 16, None, 1e-3)
    assert (training.beta1, training.beta2, training.checkpoint_every, training.trackers) == (0.9, 0.95, 200, ())
    assert (recipe.evaluation.tokens, recipe.evaluation.control, recipe.evaluation.untouched) == (100_000, True, True)


def test_a_recipe_does_not_change(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(file).training.steps = 3  # type: ignore[misc]


def test_a_whole_number_is_fine_where_a_number_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(MINIMAL + "learning_rate = 1\n")
    assert load_recipe(path).training.learning_rate == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('rows = "16"', 'training.rows: needs a whole number, found the text "16"'),
        ('seed = "20k"', 'training.seed: needs a whole number, found the text "20k"; write 20_000'),
        ('seed = "1.5M"', 'training.seed: needs a whole number, found the text "1.5M"; write 1_500_000'),
        ("rows = 16.0", "training.rows: needs a whole number, found 16.0"),
        ("rows = true", "training.rows: needs a whole number, found true"),
        ("learning_rate = true", "training.learning_rate: needs a number, found true"),
        ("learning_rate = nan", "training.learning_rate: needs a finite number, found nan"),
        ("packing = 1", "training.packing: needs true or false, found 1"),
        ("rows = 0", "training.rows: needs a number at least 1, found 0"),
        ("beta2 = 1.0", "training.beta2: needs a number below 1, found 1.0"),
        ("max_gradient_norm = 0", "training.max_gradient_norm: needs a number above 0, found 0"),
        ("trackers = 'wandb'", 'training.trackers: needs a list, found the text "wandb"'),
        (
            "trackers = ['wandb', 'wanb']",
            'training.trackers[1]: needs "tensorboard", "wandb" or "trackio", found the text "wanb"; did you mean "wandb"?',
        ),
        (
            "schedule = 'linear'",
            'training.schedule: needs a table, as schedule = { kind = "linear" }, found the text "linear"',
        ),
        (
            "schedule = { kind = 'cosin' }",
            'training.schedule.kind: needs "cosine", "linear" or "constant", found the text "cosin"; did you mean "cosine"?',
        ),
        ("schedule = { warmup = 0.1 }", 'training.schedule.kind: is missing; it is "cosine", "linear" or "constant"'),
        ("learning_rat = 0.1", "training.learning_rat: no such setting (found 0.1); did you mean `learning_rate`?"),
        ("Learning-Rate = 0.1", "training.Learning-Rate: no such setting (found 0.1); did you mean `learning_rate`?"),
        ("lr = 0.1", "training.lr: no such setting (found 0.1); did you mean `training.learning_rate`?"),
        ("batch-size = 4", "did you mean `training.rows`?"),
        ("warmup_ratio = 0.1", "did you mean `training.schedule.warmup`?"),
        ("temperature = 2", "training.temperature: no such setting (found 2); did you mean `loss.temperature`?"),
        (
            "schedule = { kind = 'constant', floor = 0.1 }",
            "training.schedule.floor: no such setting (found 0.1); it belongs to another kind; this one has kind, warmup",
        ),
        ("micro_rows = 17", "`micro_rows` are the sequences a forward pass, out of `rows` a step, found 17 of 16"),
        ("seed = 2024-01-01", "training.seed: needs a whole number, found the date or time 2024-01-01"),
    ],
)
def test_a_slip_is_named_with_its_place_and_what_was_found(line: str, message: str, tmp_path: Path) -> None:
    said = rejected(MINIMAL + line + "\n", tmp_path)
    assert message in said
    assert said.startswith(str(tmp_path / "tiny.toml"))
    assert "\n" not in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers = 4", "layers = []", "student.layers: needs a number of layers (from 1), or a list of teacher layers"),
        ("layers = 4", "layers = [0, '1']", 'found the list [0, "1"]'),
        ("layers = 4", "layers = 0", "student.layers: needs a number of layers (from 1)"),
        ("layers = 4", "layers = [0, 2]\nchoose = 'even'", "student: `layers` lists the teacher layers already"),
        ("layers = 4", "laers = 4", "did you mean `layers`?"),
        (
            'kind = "copy_layers"',
            'kind = "copy"',
            'student.kind: needs "copy_layers", "prune", "model", "fresh" or "search", found the text "copy"',
        ),
        ('source = "notes.txt"', "source = 3", "data.source: needs a text"),
        ('source = "notes.txt"', "source = ''", "data.source: needs a text"),
        ('source = "notes.txt"', "source = 'a'\nheld_out = 0.5\nsearch = 0.5", "found 0.5 + 0.5"),
        ("steps = 10", "", "training: needs exactly one of `tokens`, `steps`, `epochs`"),
        ("steps = 10", "steps = 10\ntokens = 5", "found tokens = 5 and steps = 10: keep one"),
        ('[teacher]\nmodel = "big"', "", "teacher: is missing"),
        (
            'model = "big"',
            'kind = "store"\nmodel = "b"',
            'teacher.kind: needs "live", "stored" or "translated", found the text "store"',
        ),
        ("[teacher]", "name = '../up'\n[teacher]", "name: needs a name that a folder can have"),
        (
            "[teacher]",
            "[teachr]\n[teacher]",
            "teachr: no such setting (found a table of nothing); did you mean `teacher`?",
        ),
    ],
)
def test_each_table_refuses_what_it_cant_mean(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert MINIMAL.count(old) == 1
    assert message in rejected(MINIMAL.replace(old, new), tmp_path)


def test_several_mistakes_stand_in_one_message(tmp_path: Path) -> None:
    said = rejected(MINIMAL + "rows = 'x'\nlenght = 3\n[evaluation]\ncontrol = 'no'\n", tmp_path)
    assert "tiny.toml has 3 mistakes:" in said
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == [
        "training.rows",
        "training.lenght",
        "evaluation.control",
    ]


def test_a_mistake_keeps_the_braces_of_its_author(tmp_path: Path) -> None:
    assert "{message} {0}" in rejected(MINIMAL.replace('"notes.txt"', "[1, '{message} {0}']"), tmp_path)


def test_broken_toml_is_shown_where_it_breaks(tmp_path: Path) -> None:
    said = rejected("[teacher]\nmodel = big\n", tmp_path)
    assert "line 2, column 9" in said
    assert said.splitlines()[-2:] == ["  model = big", "          ^"]


def test_toml_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    assert "still open" in rejected("model = [1, 2", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_a_file_that_is_no_recipe_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"is missing|not UTF-8"):
        load_recipe(path)


def test_a_missing_file_is_named_with_the_nearest_one(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe .*tinny\.toml: did you mean .*tiny\.toml\?"):
        load_recipe(file.with_name("tinny.toml"))
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(file.parent)
    with pytest.raises(RecipeError, match="potstill recipes"):
        load_recipe(file.parent / "nowhere" / "x.toml")


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("training.learning_rate=3e-4", ("training", "learning_rate"), 3e-4),
        ("training.packing=false", ("training", "packing"), False),
        ("name=other", ("name",), "other"),
        ("name=a#b", ("name",), "a#b"),
        ("teacher.model=models/big one", ("teacher", "model"), "models/big one"),
        ("data.source=['a', 'b']", ("data", "source"), ("a", "b")),
        ('data.source="standard-library"', ("data", "source"), "standard-library"),
        ("data.columns.text=body", ("data", "columns", "text"), "body"),
        ("student.layers=[0,3]", ("student", "layers"), (0, 3)),
        ("training.trackers=['wandb']", ("training", "trackers"), ("wandb",)),
        ("loss.alpha = 0.5", ("loss", "alpha"), 0.5),
    ],
)
def test_a_set_changes_one_setting(setting: str, place: tuple[str, ...], value: object, file: Path) -> None:
    found: object = load_recipe(file, sets=[setting])
    for name in place:
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_a_set_replaces_a_whole_table(file: Path) -> None:
    recipe = load_recipe(file, sets=['loss.divergence={ kind = "jensen_shannon", beta = 0.2 }'])
    assert recipe.loss.divergence == JensenShannonTable(kind="jensen_shannon", beta=0.2)


def test_a_set_length_takes_the_place_of_the_one_in_the_file(file: Path) -> None:
    training = load_recipe(file, sets=["training.tokens=1_000"]).training
    assert (training.tokens, training.steps, training.epochs) == (1000, None, None)
    with pytest.raises(RecipeError, match="found tokens = 3 and epochs"):
        load_recipe(file, sets=["training.tokens=3", "training.epochs=1"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.rows", "needs a name and a value"),
        ("=3", "needs a name and a value"),
        ("training.rows=", "needs a name and a value"),
        ("training rows=3", "needs a name and a value"),
        ("training.steps.x=3", "training.steps is 10, which has no settings inside"),
        ("data.source=['a", "the value is not TOML"),
        ("training.rows=many", 'training.rows: needs a whole number, found the text "many"'),
        ("training.row=3", "did you mean `rows`?"),
    ],
)
def test_a_wrong_set_is_refused(setting: str, message: str, file: Path) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(file, sets=[setting])
    assert message in str(error.value)
    assert f"--set {setting}" in str(error.value)


def test_a_set_is_one_setting_and_no_more_toml(file: Path) -> None:
    assert load_recipe(file, sets=["teacher.model=3\nkind = 'x'"]).teacher.model == "3\nkind = 'x'"


def test_a_path_beside_the_recipe_only_is_pointed_at(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "standard-library").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r'data\.source: there is no "notes.txt" .* write "\.\./notes.txt"'):
        load_recipe(file)
    assert load_recipe(file, sets=["data.source=standard-library"]).data.source == "standard-library"
    monkeypatch.chdir(tmp_path)
    assert load_recipe(file).data.source == "notes.txt"


def test_decoding_plain_tables_needs_no_file() -> None:
    tables = {
        "teacher": {"model": "big"},
        "student": {"kind": "fresh", "changes": {"hidden_size": 8, "layer_types": ["a", "b"]}},
        "data": {"source": ["a", "b"]},
        "training": {"epochs": 1},
    }
    recipe = decode(tables)
    assert isinstance(recipe, Recipe)
    assert recipe.name == "recipe"
    with pytest.raises(RecipeError, match=r"^mine: student\.changes\.hidden_size: needs a number, a text"):
        decode({**tables, "student": {"kind": "fresh", "changes": {"hidden_size": {}}}}, source="mine")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[stages]\nkind = 'generations'\ncount = 1\n", "leave stages or training.int4 out"),
        ("[teacher.gate]\n", "leave teacher.gate or training.int4 out"),
    ],
)
def test_four_bits_do_not_go_with_what_judges_or_teaches_in_full(table: str, message: str, tmp_path: Path) -> None:
    assert message in rejected(MINIMAL + "[training.int4]\n" + table, tmp_path)


def test_integers_have_64_bits(tmp_path):
    path = tmp_path / "recipe.toml"
    for text in (f"[training]\nsteps = {9 * 10**18}0\n", f"[stages]\nlist = [[1, -{2**64}]]\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(RecipeError, match="64 bits"):
            load_recipe(path)


def test_what_other_trainers_call_a_setting_points_to_one_that_there_is() -> None:
    there = set(_all_places(Recipe))
    assert set(_CALLED_ELSEWHERE.values()) <= there
    assert not set(_CALLED_ELSEWHERE) & {place.rpartition(".")[2] for place in there}
