"""Prompts from arguments and from txt, jsonl and csv files; errors with line numbers."""

import pytest

from statefilm.cli.errors import CommandError
from statefilm.cli.prompts import Prompt, collect, read_file


def write(path, text):
    path.write_bytes(text.encode("utf-8"))
    return path


def test_order_is_argument_then_flags_then_file(tmp_path):
    file = write(tmp_path / "p.txt", "\ufeffthird\n\n  fourth  \r\nfünfter\n")
    found = collect("first", ["second"], file)
    assert [prompt.text for prompt in found] == ["first", "second", "third", "fourth", "fünfter"]


def test_jsonl(tmp_path):
    file = write(
        tmp_path / "p.jsonl",
        '{"prompt": "a", "seed": 5}\n\n{"prompt": "b", "negative_prompt": "c"}',
    )
    assert read_file(file) == [Prompt("a", seed=5), Prompt("b", negative="c")]


def test_csv(tmp_path):
    file = write(tmp_path / "p.csv", 'prompt,seed,negative_prompt\n"one, two",7,\nthree,,four\n')
    assert read_file(file) == [Prompt("one, two", seed=7), Prompt("three", negative="four")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.md", "a", "prompts files end in .txt, .jsonl, .csv"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', "p.jsonl:2: not JSON"),
        ("p.jsonl", '"a"', "p.jsonl:1: not a JSON object"),
        ("p.jsonl", '{"seed": 1}', "p.jsonl:1: has no prompt"),
        ("p.jsonl", '{"prompt": 3}', "p.jsonl:1: has no prompt"),
        ("p.jsonl", '{"prompt": "a", "sede": 1}', "p.jsonl:1: unknown key 'sede'"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}', "p.jsonl:1: seed -1 is not an integer"),
        ("p.jsonl", '{"prompt": "a", "seed": 1.5}', "seed 1.5 is not an integer"),
        ("p.jsonl", '{"prompt": "a", "negative_prompt": 1}', "negative_prompt 1 is not text"),
        ("p.csv", "prompt,seed\na,one\n", "p.csv:2: seed 'one' is not an integer"),
        ("p.csv", "prompt\na,b\n", "p.csv:2: more values than columns"),
        ("p.csv", "text\na\n", "p.csv:2: unknown key 'text'"),
        ("p.csv", 'prompt\n"a\n', "p.csv: not CSV"),
        ("p.csv", "prompt,seed\n", "holds no prompts"),
    ],
)
def test_malformed_files(tmp_path, name, text, says):
    with pytest.raises(CommandError) as caught:
        read_file(write(tmp_path / name, text))
    assert says in str(caught.value)


def test_files_that_are_not_text(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"a\xff\n")
    with pytest.raises(CommandError, match=r"not UTF-8 text \(byte 1\)"):
        read_file(tmp_path / "p.txt")
    with pytest.raises(CommandError, match="no such prompts file"):
        read_file(tmp_path / "q.txt")
