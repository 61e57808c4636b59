"""Pairs, their order and sides, the choices on disk, and what a sitting knows."""

import json

import pytest

from statefilm.errors import UsageError
from statefilm.experiments.prefer import Choice, ChoiceLog, Pair, Session, find_pairs, shuffled

SYSTEMS = ("red", "blue")


def test_pairs_are_files_of_one_name(folders):
    a, b = folders
    (a / "alone.png").write_bytes((a / "one.png").read_bytes())
    (a / "notes.txt").write_text("no picture")
    pairs, unpaired = find_pairs(a, b)
    names = ["deep/three.png", "five.mp4", "four.png", "one.png", "two.png"]
    assert [pair.name for pair in pairs] == names
    assert unpaired == ["alone.png"]
    prompts = {pair.name: pair.prompt for pair in pairs}
    assert prompts["one.png"] == "a shape of one.png"
    assert prompts["four.png"] is None  # they say different things
    assert prompts["five.mp4"] == "a <b>clip</b>"


def test_bad_folders(folders, tmp_path):
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        find_pairs(folders[0], tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no file of the same name"):
        find_pairs(folders[0] / "deep", folders[1])


def made(count):
    return [Pair(f"{index}.png", f"a/{index}", f"b/{index}") for index in range(count)]


def test_order_and_sides_are_random_and_fixed_by_the_seed():
    pairs = made(400)
    order = shuffled(pairs, 1)
    assert order == shuffled(pairs[::-1], 1)
    assert sorted(pair.name for pair in order) == sorted(pair.name for pair in pairs)
    assert [pair.name for pair in order] != [pair.name for pair in shuffled(pairs, 2)]
    assert 150 < sum(pair.left == "a" for pair in order) < 250
    half = len(order) // 2  # sides do not follow from places
    assert 60 < sum(pair.left == "a" for pair in order[:half]) < 140


def test_a_pair_that_joins_leaves_the_others_as_they_are():
    before = shuffled(made(20), 0)
    after = [pair for pair in shuffled(made(21), 0) if pair.name != "20.png"]
    assert after == before


def test_a_side_is_the_file_of_its_system():
    pair = Pair("x.png", "a/x", "b/x", left="b")
    assert (pair.file("left"), pair.file("right"), pair.right) == ("b/x", "a/x", "a")


def test_answers_are_kept_by_system(session):
    for index, pair in enumerate(session.pairs):
        session.answer(index, "left", 1.25)
        assert session.log.choices[pair.name].preferred == pair.left
    assert session.preference().count == len(session.pairs)


def test_the_last_choice_of_a_pair_counts_and_all_are_kept(session):
    session.answer(0, "left", 1)
    session.answer(0, "equal", 2)
    assert session.preference().ties == session.preference().count == 1
    head, *lines = session.log.path.read_text().splitlines()
    assert json.loads(head) == {"a": "red", "b": "blue"}
    assert [json.loads(line)["preferred"] for line in lines][1] == "equal"
    assert session.shown(0)["answer"] == "equal"


def test_it_goes_on_where_it_stopped(session):
    session.answer(0, "right", 1)
    again = Session(session.pairs, ChoiceLog(session.log.path, SYSTEMS))
    state = again.state()
    assert (state["done"], state["total"], state["pair"]["index"]) == (1, 5, 1)
    assert again.log.choices == session.log.choices


def test_the_page_learns_the_systems_at_the_end_only(session):
    for index in range(len(session.pairs)):
        state = session.state()
        for shown in (state["pair"], *state["next"]):
            assert shown.keys() == {"index", "prompt", "kinds", "answer"}
        assert "red" not in json.dumps(state) and "blue" not in json.dumps(state)
        session.answer(index, "left", 1)
    result = session.state()["result"]
    assert (result["a"], result["b"]) == SYSTEMS
    assert result["wins"] == sum(pair.left == "a" for pair in session.pairs)


def test_choices_of_pairs_that_are_gone_do_not_count(session):
    session.log.add(Choice("gone.png", "a", "a", 1.0, 0.0))
    assert session.preference().count == 0


@pytest.mark.parametrize(
    ("index", "answer", "seconds", "message"),
    [
        (5, "left", 1, "pair 5 does not exist: valid are 0 to 4"),
        (-1, "left", 1, "pair -1"),
        (0, "a", 1, "unknown answer 'a': valid are left, right, equal"),
        (0, "left", float("nan"), "seconds nan"),
    ],
)
def test_bad_answers(session, index, answer, seconds, message):
    with pytest.raises(UsageError, match=message):
        session.answer(index, answer, seconds)
    assert not session.log.path.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "red", "b": "green"}\n', "holds choices between .* give another folder"),
        ("\n", "holds choices between nothing"),
        ('{"a": "red", "b": "blue"}\n{"name": "x"}\n', ":2: .* is not a choice"),
        (
            '{"a": "red", "b": "blue"}\n'
            '{"name": "x", "preferred": "c", "left": "a", "seconds": 1, "time": 1}\n',
            ":2: .* is not a choice",
        ),
        ('{"a": "red", "b": "blue"}\nnot json\n', ":2: 'not json' is not a choice"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "choices.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        ChoiceLog(path, SYSTEMS)


@pytest.mark.parametrize("kept", [0, 9, -9, -1])
def test_a_line_that_was_cut_off_does_not_stop_a_sitting(session, kept):
    session.answer(0, "left", 1)
    session.answer(1, "equal", 1)
    path = session.log.path
    *whole, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*whole, last[:kept]]))
    log = ChoiceLog(path, SYSTEMS)
    assert len(log.choices) == (2 if kept == -1 else 1)
    again = Session(session.pairs, log)
    again.answer(2, "right", 1)
    assert len(ChoiceLog(path, SYSTEMS).choices) == (3 if kept == -1 else 2)


def test_a_head_that_was_cut_off_is_written_anew_and_other_files_are_left_alone(session):
    path = session.log.path
    for cut in ("", '{"a": "re'):
        path.write_text(cut)
        Session(session.pairs, ChoiceLog(path, SYSTEMS)).answer(0, "left", 1)
        assert len(ChoiceLog(path, SYSTEMS).choices) == 1
    path.write_text("to do")
    with pytest.raises(UsageError, match="holds choices between to do"):
        ChoiceLog(path, SYSTEMS)
