"""What is to be distilled, written down: TOML in, a `Recipe` out, and from it the objects of the other rooms.

    recipe = load_recipe("distill.toml", sets=["training.steps=100"])
    measure = build_measure(recipe.loss)

Every mistake in a recipe is one RecipeError: the file, the place, what was found, and "did you mean". Reading a recipe
imports pydantic and nothing heavier; `build` imports the rooms when it is called.

schema.py    what a recipe can say: a frozen class a table, defaults, ranges, units
kinds.py     the choices: of student, divergence, schedule
searched.py  the student that is searched for, its bars and limits
table.py     what all tables share
on_policy.py [training.on_policy]: the student's own text
features.py  what is compared beside the labels
teaching.py  more teachers than one, or the student's own past
tensor_parallel.py  a teacher that processes share: how many, and what it doesn't go with
four_bits.py   a student that learns through the rounding to four bits
specialists.py a teacher whose share falls, and the gate that asks what it is worth
marking.py   the teachers of a mixture, live or from disk, one at a time where they must
stages.py    a run made of runs: what a recipe can say of it
staging.py   its stages, each a recipe of its own
decode.py    the file and `--set`; refuses what can't be meant
mistakes.py  why a recipe was rejected, in sentences
toml.py      the resolved recipe as TOML, and the JSON schema
demo.py      the recipe of `potstill demo`, as long as this machine makes in its time
starters.py  recipes to start from (starters/*.toml)
build.py     tables -> objects
comparing.py what is compared beside the labels -> the loss, tried on a few tokens
translated.py [teacher.translation]: a teacher of another tokenizer
text.py      [data] -> the tokenised text, learned and held out
labelling.py a recipe -> what `potstill label` does
number_format.py  dtype = "auto": measured where work begins, kept where it goes on
job.py       a whole recipe -> a job in its run directory, everything checked
information.py a recipe -> the learning curves that tell what its soft labels are worth
writing.py   what a recipe for `potstill write` can say
written.py   from it prompts, writer and selection, everything checked
searching.py a recipe whose student is searched -> the search in its run directory
planning.py  a recipe -> what its run will be made of
trying.py    this machine tried at it, a few steps long
"""

from potstill.recipe.build import (
    build_batches,
    build_measure,
    build_schedule,
    build_settings,
    build_shape,
    build_student,
    num_steps,
)
from potstill.recipe.decode import decode, load_recipe
from potstill.recipe.demo import demo_recipe
from potstill.recipe.information import BuiltEfficiency, build_efficiency, check_has_curves
from potstill.recipe.job import BuiltJob, build_job, shared_tokenizer, tokenizer_of
from potstill.recipe.labelling import build_labelling, labels_folder
from potstill.recipe.schema import Recipe
from potstill.recipe.starters import StarterRecipe, starter_recipes, write_starter
from potstill.recipe.text import read_corpus
from potstill.recipe.toml import json_schema, recipe_toml
from potstill.recipe.writing import WritingRecipe
from potstill.recipe.written import BuiltWriting, build_writing, load_writing

__all__ = [
    "BuiltEfficiency",
    "BuiltJob",
    "BuiltWriting",
    "Recipe",
    "StarterRecipe",
    "WritingRecipe",
    "build_batches",
    "build_efficiency",
    "build_job",
    "build_labelling",
    "build_measure",
    "build_schedule",
    "build_settings",
    "build_shape",
    "build_student",
    "build_writing",
    "check_has_curves",
    "decode",
    "demo_recipe",
    "json_schema",
    "labels_folder",
    "load_recipe",
    "load_writing",
    "num_steps",
    "read_corpus",
    "recipe_toml",
    "shared_tokenizer",
    "starter_recipes",
    "tokenizer_of",
    "write_starter",
]
