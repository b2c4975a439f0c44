"""What a recipe for `potstill write` can say: who writes, from which prompts, what is kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from potstill.recipe.table import FolderName, Share, Table, Text, mistake

_URL = re.compile(r"https?://[^@\s?]+")
# Capitals alone, as is usual: a key written here by mistake is told from a name.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class LocalTable(Table):
    """A model on this machine writes."""

    kind: Literal["local"]
    """local: a model on this machine."""
    model: Text
    """A local folder, a name on the Hugging Face hub, a .gguf file, or "pocket": the small one that ships with potstill."""
    rows: Annotated[int, Field(ge=1)] = 16
    """Texts written at a time."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the weights are held in; auto: bfloat16 where it is faster on this machine and the weights lose nothing by it."""


class PriceTable(Table):
    """What the server takes for a million tokens, in any currency."""

    read: Annotated[float, Field(ge=0.0)]
    """Of prompts."""
    written: Annotated[float, Field(ge=0.0)]
    """Of what it writes."""


class ServerTable(Table):
    """A server that speaks OpenAI's API writes: vLLM, llama.cpp, SGLang, a provider."""

    kind: Literal["server"]
    """server: anything that speaks OpenAI's API."""
    url: Text
    """Up to the version, as http://127.0.0.1:8080/v1."""
    model: Text
    """The model's name there."""
    endpoint: Literal["chat", "completions"] = "chat"
    """chat: prompts are a user's turn. completions: they are text to go on with."""
    key_from: Text | None = None
    """The environment variable that holds the key (its name, not the key)."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests on their way at once."""
    requests_per_minute: Annotated[float, Field(gt=0.0)] | None = None
    """At most so many; left out: as fast as it answers."""
    timeout: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds without a byte before a request counts as lost."""
    attempts: Annotated[int, Field(ge=1)] = 8
    """For one request, with waits that double between them."""
    first_wait: Annotated[float, Field(ge=0.0)] = 1.0
    """Seconds after the first failure."""
    top_logprobs: Annotated[int, Field(ge=0, le=50)] | None = None
    """Ask for so many of the likeliest tokens at each place and keep them: soft labels for `potstill import-labels`. Left out: none."""
    send_seed: bool = True
    """A seed goes along with what is sampled; some servers don't know the setting."""
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of an answer's length."""
    price: PriceTable | None = None
    """For the count of costs."""

    @model_validator(mode="after")
    def _no_secrets_here(self) -> ServerTable:
        # Of the whole table, so that no error shows what was found.
        if not _URL.fullmatch(self.url):
            raise mistake(
                "`url` begins with http:// or https:// and ends with the version, as http://127.0.0.1:8080/v1; a user's name and "
                "password belong in no file"
            )
        if self.key_from is not None and not _VARIABLE.fullmatch(self.key_from):
            raise mistake(
                "`key_from` is the name of an environment variable, as OPENAI_API_KEY, not the key itself: keys belong in no file"
            )
        return self


class PromptColumnsTable(Table):
    """Which columns of the prompts' rows hold what."""

    prompt: Text = "prompt"
    """A text."""
    messages: Text = "messages"
    """A conversation as a list of {role, content}, up to a user's turn; goes before `prompt`."""
    answer: Text = "answer"
    """What is right, for filters; may be missing where none asks for it."""


class PromptsTable(Table):
    """What the teacher is to answer, and what stands around it."""

    source: Text
    """A .jsonl or .parquet file, a `datasets` folder or a hub name."""
    split: Text = "train"
    """Which split of a `datasets` folder or a hub data set."""
    columns: PromptColumnsTable = PromptColumnsTable()
    """Which columns hold what."""
    max_prompts: Annotated[int, Field(ge=1)] | None = None
    """The first so many; all when left out."""
    template: Text = "{prompt}"
    """What is sent: {prompt} stands for the prompt's own text."""
    system: Text | None = None
    """What a conversation begins with."""
    chat: bool = False
    """A local model gets prompts as a user's turn, through its chat template. (Servers: see writer.endpoint.)"""
    answer_pattern: Text | None = None
    """A regular expression: its last match (its first group) in the answer's column is the answer. As "#### (.*)" in GSM8K."""

    @model_validator(mode="after")
    def _has_its_place(self) -> PromptsTable:
        if "{prompt}" not in self.template:
            raise mistake("`template` has no {prompt} in it: that is where the prompt's own text goes")
        return self


class SamplingTable(Table):
    """How the next token is chosen."""

    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """0: the likeliest token, always."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Only the fewest tokens that have this probability together."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the k likeliest tokens; 0: all."""
    min_p: Share = 0.0
    """Only tokens at least so likely, as a share of the likeliest."""
    best_of: Annotated[int, Field(ge=1)] = 1
    """Samples a prompt."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """At most so many tokens."""
    stop: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Texts before which writing ends."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Which tokens are drawn."""

    @model_validator(mode="after")
    def _several_differ(self) -> SamplingTable:
        if self.best_of > 1 and self.temperature == 0:
            raise mistake(
                f"`best_of` = {self.best_of} samples at temperature 0 are all the same: raise one or lower the other"
            )
        return self


class ExactTable(Table):
    """The answer's first line is the prompt's answer; case and outer space don't count."""

    kind: Literal["exact"]
    """exact: the prompt's answer and nothing else."""


class RegexTable(Table):
    """The last match of a pattern (its first group, if it has one) is the prompt's answer."""

    kind: Literal["regex"]
    """regex: a pattern finds the answer, which is the prompt's."""
    pattern: Text
    """As "answer is (-?[0-9.]+)"."""


class FoundTable(Table):
    """A pattern is found in the text; or is not."""

    kind: Literal["found"]
    """found: a pattern is in the text."""
    pattern: Text
    """A regular expression."""
    wanted: bool = True
    """false: texts in which it is found are refused."""


class PythonTable(Table):
    """A function of one's own judges."""

    kind: Literal["python"]
    """python: a function (prompt, answer, written) -> 0 to 1."""
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    """As module:function, from where the command runs."""
    at_least: Share = 1.0
    """What it has to give."""


class LikelihoodTable(Table):
    """The writer finds its own text likely."""

    kind: Literal["likelihood"]
    """likelihood: by the writer's own log-probabilities."""
    at_least: Annotated[float, Field(le=0.0)]
    """The mean of its tokens' log-probabilities, in nats; -1.0 is a perplexity of 2.7."""


class LengthTable(Table):
    """Not too short, not too long."""

    kind: Literal["length"]
    """length: in tokens and characters."""
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    """As the writer counts them."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """As the writer counts them."""
    min_characters: Annotated[int, Field(ge=0)] | None = None
    """Of the text."""
    max_characters: Annotated[int, Field(ge=0)] | None = None
    """Of the text."""


class DuplicatesTable(Table):
    """The first of equal or similar texts stays. Looked at last, wherever it stands."""

    kind: Literal["duplicates"]
    """duplicates: equal or similar to one that was kept."""
    similar: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """The Jaccard similarity of their runs of words from which on texts are the same; left out: equal ones alone."""
    words: Annotated[int, Field(ge=1)] = 5
    """In a run."""
    whole: bool = False
    """Prompt and text together are compared: for short answers, which may well be equal."""


FilterTable = Annotated[
    ExactTable | RegexTable | FoundTable | PythonTable | LikelihoodTable | LengthTable | DuplicatesTable,
    Field(discriminator="kind"),
]


class StepsTable(Table):
    """Distilling step by step: two rows a text, "[label] prompt" -> answer and "[rationale] prompt" -> rationale, with weights."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Of the rationales in the loss."""
    label: Text = "[label] "
    """In front of the prompt whose answer is learned."""
    rationale: Text = "[rationale] "
    """In front of the prompt whose rationale is learned."""
    between: str = "\n"
    """Between prompt and what is learned."""
    tokenizer: Text | None = None
    """Whose tokens are weighed: the student's, as a folder or hub name. Left out: the local writer's."""


class OutputTable(Table):
    """What becomes of it."""

    keep: Literal["best", "all"] = "best"
    """Of a prompt's samples that pass: the one the writer finds likeliest, or all."""
    prompt: Literal["sent", "bare"] = "sent"
    """Learned after: the prompt as it was sent, with template and system, or as it stood in its row."""
    cut: bool = False
    """Keep texts that ended for their length alone (of chats they never are)."""
    rationale_pattern: Text | None = None
    """Takes a text apart: a regular expression with (?P<rationale>...) and (?P<answer>...). Texts without it are refused."""
    steps: StepsTable | None = None
    """Distilling step by step; needs rationale_pattern."""


class WritingRecipe(Table):
    """Text from a teacher: data distillation."""

    model_config = ConfigDict(title="potstill write recipe")

    name: FolderName = "recipe"
    """Of the folder; the recipe file's own name when left out."""
    writer: Annotated[LocalTable | ServerTable, Field(discriminator="kind")]
    """Who writes."""
    prompts: PromptsTable
    """What is asked."""
    sampling: SamplingTable = SamplingTable()
    """How the next token is chosen."""
    filters: Annotated[tuple[FilterTable, ...], Field(strict=False)] = ()
    """What is kept: [[filters]], in this order."""
    output: OutputTable = OutputTable()
    """What becomes of it."""

    @model_validator(mode="after")
    def _fits_together(self) -> WritingRecipe:
        if sum(one.kind == "duplicates" for one in self.filters) > 1:
            raise mistake('two filters of kind "duplicates": one is enough, set `similar` there')
        steps, writer = self.output.steps, self.writer
        if steps is not None and self.output.rationale_pattern is None:
            raise mistake("output.steps needs output.rationale_pattern, which finds rationale and answer")
        if steps is not None and self.output.keep == "all":
            raise mistake('output.steps learns one answer a prompt: leave output.keep at "best"')
        if steps is not None and steps.tokenizer is None and writer.kind == "server":
            raise mistake("output.steps needs `tokenizer`, the student's: a server's tokens can't be counted otherwise")
        if writer.kind == "server" and self.prompts.chat:
            raise mistake('prompts.chat is for local models: a server is asked by writer.endpoint = "chat"')
        is_chat = self.prompts.chat if writer.kind == "local" else writer.endpoint == "chat"
        if self.output.cut and is_chat:
            raise mistake(
                "output.cut keeps plain texts alone: a chat's template would end what was cut. Leave it out, and raise "
                "sampling.max_new_tokens until few are cut"
            )
        return self
