"""Text from wherever users have it, and what is said when it can't be read."""

import json
from pathlib import Path

import pytest
from tiny_models import CHAT_TEMPLATE, byte_tokenizer

from potstill.data import Columns, read_documents
from potstill.errors import DataError


def texts(source: Path | str, **options) -> list[str]:
    return [document.text for document in read_documents(source, **options)]


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_a_text_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"paragraph {number} " + "word " * 300 + "\n\n" for number in range(9)]
    (tmp_path / "notes.txt").write_text("".join(paragraphs), "utf-8")
    found = texts(tmp_path / "notes.txt")
    assert len(found) > 2
    assert "".join(found).rstrip() == "".join(paragraphs).rstrip()


def test_a_folder_gives_a_document_a_file_in_order(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("b.txt", "a.md", "inner/c.py"):
        (tmp_path / name).write_text(f"I am {name}", "utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert texts(tmp_path) == ["I am a.md", "I am b.txt", "I am inner/c.py"]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert texts(tmp_path / "windows.txt") == ["hello"]


def test_json_lines_have_columns_that_can_be_renamed(tmp_path):
    write_lines(tmp_path / "text.jsonl", {"text": "one"}, {"text": "  "}, {"text": "two"})
    assert texts(tmp_path / "text.jsonl") == ["one", "two"]
    path = write_lines(tmp_path / "pairs.jsonl", {"question": "2+2? ", "answer": "4"})
    [pair] = read_documents(path, columns=Columns(prompt="question", completion="answer"))
    assert [(part.text, part.counts) for part in pair.parts] == [("2+2? ", False), ("4", True)]
    assert pair.is_sample


def test_parquet_and_saved_datasets_are_read(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    table = {"text": [f"row {number}" for number in range(5)]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"other": datasets.Dataset.from_dict(table)}).save_to_disk(tmp_path / "split")
    assert texts(tmp_path / "rows.parquet") == texts(tmp_path / "saved") == table["text"]
    assert texts(tmp_path / "split", split="other") == table["text"]
    with pytest.raises(DataError, match="has no split 'train', it has other"):
        texts(tmp_path / "split")


def test_the_key_is_of_the_text_alone(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", {"text": "same"}, {"text": "other"})
    second = write_lines(tmp_path / "b.jsonl", {"text": "other"}, {"text": "same"})
    keys = [{document.text: document.key for document in read_documents(path)} for path in (first, second)]
    assert keys[0] == keys[1]
    assert len(set(keys[0].values())) == 2


def test_prompt_and_completion_know_where_one_ends(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "ab", "completion": "c"}, {"prompt": "a", "completion": "bc"})
    one, other = read_documents(path)
    assert one.text == other.text
    assert one.key != other.key


def test_only_the_assistant_counts_in_a_chat(tmp_path):
    template = CHAT_TEMPLATE + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye!"},
    ]
    path = write_lines(tmp_path / "chat.jsonl", {"messages": chat})
    [document] = read_documents(path, tokenizer=byte_tokenizer(chat_template=template))
    assert [part.text for part in document.parts if part.counts] == ["Hello.<|end|>", "Bye!<|end|>"]
    assert document.text.count("<|user|>") == 2
    assert not document.ends


def test_a_template_that_rewrites_the_past_is_refused(tmp_path):
    forgetful = "{% for m in messages[-2:] %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant") * 2]
    path = write_lines(tmp_path / "chat.jsonl", {"messages": turns})
    with pytest.raises(DataError, match=r"line 1.*differently once it goes on"):
        texts(path, tokenizer=byte_tokenizer(chat_template=forgetful))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "fine"}\n{"text": oops}\n', "line 2 is not JSON"),
        (b'{"text": "fine"}\n[1, 2]\n', "line 2 is a JSON list, and an object with columns is needed"),
        (b'{"txt": "fine"}\n', r"has columns 'txt'.*did you mean 'txt' for text"),
        (
            b'{"prompt": "a"}\n',
            r"has columns 'prompt', and needs 'text', or 'prompt' and 'completion'.*\(token ids\)\. Name the columns so",
        ),
        (b'{"text": null}\n', "'text' is empty \\(null\\), not text"),
        (b'{"text": "caf\xe9"}\n', "is not UTF-8 \\(byte 0xe9.*iconv"),
        (b'{"messages": "hello"}\n', "must be a list of turns"),
        (b'{"messages": [{"role": "user"}]}\n', "a turn needs a role and content"),
        (b"", "holds no text"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, content, said):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        texts(path, tokenizer=byte_tokenizer(chat_template=CHAT_TEMPLATE))


def test_what_is_not_there_is_named_with_its_neighbour(tmp_path):
    (tmp_path / "notes.txt").write_text("hello", "utf-8")
    with pytest.raises(DataError, match=r"no such file or folder.*did you mean .*notes\.txt"):
        texts(tmp_path / "note.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no text in it"):
        texts(tmp_path / "empty")
    (tmp_path / "blank.txt").write_text("\n \n", "utf-8")
    with pytest.raises(DataError, match="holds no text"):
        texts(tmp_path / "blank.txt")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        texts(tmp_path / "bad.parquet")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        texts(tmp_path / "latin.txt")
    (tmp_path / "whole.json").write_text("{}", "utf-8")
    with pytest.raises(DataError, match="write one JSON object a line"):
        texts(tmp_path / "whole.json")


def test_a_hub_name_without_a_hub_says_so():
    with pytest.raises(DataError, match=r"no file or folder 'nobody/nothing'.*hub gave no dataset"):
        texts("nobody/nothing")


def test_the_standard_library_is_there():
    found = list(read_documents("standard-library"))
    assert len(found) > 300
    assert {"argparse.py", "json/decoder.py"} <= {document.key for document in found}
    assert not any(document.key.startswith(("test/", "encodings/", "site-packages/")) for document in found)


def test_lines_without_a_blank_one_between_are_cut_too(tmp_path):
    (tmp_path / "log.txt").write_text("".join(f"line {n} of a log\n" for n in range(5000)), "utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "log.txt").write_text((tmp_path / "log.txt").read_text("utf-8"), "utf-8")
    found = texts(tmp_path / "log.txt")
    assert len(found) > 4
    assert "".join(found) == (tmp_path / "log.txt").read_text("utf-8")
    assert texts(tmp_path / "folder") == found


def test_half_a_surrogate_pair_is_named_with_its_line(tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"text": "fine"}\n{"text": "bad \\ud800 text"}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl, line 2: character 4 is half a surrogate pair"):
        texts(tmp_path / "odd.jsonl")


def test_a_folder_that_only_looks_like_a_saved_dataset(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="looks like a saved dataset"):
        texts(tmp_path)


def test_home_is_where_the_tilde_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello")
    assert texts("~/notes.txt") == ["hello"]
