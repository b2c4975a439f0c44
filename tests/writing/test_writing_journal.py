"""What a kill leaves, and what belongs to something else."""

import json

import pytest

from potstill.errors import DataError, RunDirectoryError
from potstill.writing import Journal, Sample, Written

IDENTITY = {"teacher": {"model": "m"}, "sampling": {"stop": ("\n",), "seed": 0}}
LISTED = ({"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "a", "logprob": -1.0}]},)
SAMPLE = Sample("text ä\n", 3, is_cut=False, mean_logprob=-0.5, listed=LISTED)


def filled(path, number: int = 5):
    with Journal(path, IDENTITY) as journal:
        for n in range(number):
            journal.append(Written(f"{n}", (SAMPLE,), prompt_tokens=n, requests=1, seconds=0.5))


def test_what_is_written_is_read_again(tmp_path):
    filled(tmp_path / "new" / "j")
    with Journal(tmp_path / "new" / "j", IDENTITY) as journal:
        assert len(journal) == 5
        assert "3" in journal
        assert "5" not in journal
        assert journal.read("3") == Written("3", (SAMPLE,), prompt_tokens=3, requests=1, seconds=0.5)
        journal.append(Written("5", ()))
        assert journal.read("1").prompt_tokens == 1
        assert journal.read("5") == Written("5", ())
        with pytest.raises(ValueError, match="already"):
            journal.append(Written("5", ()))


def test_every_place_that_a_kill_can_leave(tmp_path):
    path = tmp_path / "j"
    filled(path, 3)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in [*range(ends[0] + 40), *range(ends[1] - 3, ends[1] + 40), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with Journal(path, IDENTITY) as journal:
            assert len(journal) == max(0, sum(end <= cut for end in ends) - 1)
            for n in range(len(journal), 3):
                journal.append(Written(f"{n}", (SAMPLE,), prompt_tokens=n, requests=1, seconds=0.5))
        assert path.read_bytes() == whole


def test_damage_is_named(tmp_path):
    filled(tmp_path / "j")
    lines = (tmp_path / "j").read_bytes().split(b"\n")
    lines[2] = lines[2][:20]
    (tmp_path / "j").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="line 3 is damaged"):
        Journal(tmp_path / "j", IDENTITY)


def test_a_changed_bit_is_found_wherever_it_is(tmp_path):
    filled(path := tmp_path / "j", 2)
    whole, missed = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        try:
            with Journal(path, IDENTITY) as journal:
                for name in ("0", "1"):
                    assert name not in journal or journal.read(name) == Written(name, (SAMPLE,), int(name), 1, 0.5)
                missed += 1
        except (DataError, RunDirectoryError):
            pass
    assert missed < 20, "the end of a line, which is half written then, or the name of the first line's check"


def test_what_an_earlier_version_wrote_is_read(tmp_path):
    filled(path := tmp_path / "j", 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["check"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Journal(path, IDENTITY) as journal:
        journal.append(Written("2", (SAMPLE,)))
    with Journal(path, IDENTITY) as journal:
        assert [journal.read(str(n)).samples for n in range(3)] == [(SAMPLE,)] * 3


def test_of_something_else_or_in_use(tmp_path):
    filled(tmp_path / "j")
    with pytest.raises(RunDirectoryError, match=r"written with sampling = .*'seed': 0.*and now it is .*'seed': 1"):
        Journal(tmp_path / "j", {**IDENTITY, "sampling": {"stop": ("\n",), "seed": 1}})
    with Journal(tmp_path / "j", IDENTITY), pytest.raises(RunDirectoryError, match="another process"):
        Journal(tmp_path / "j", IDENTITY)
    Journal(tmp_path / "j", IDENTITY)._file.close()
