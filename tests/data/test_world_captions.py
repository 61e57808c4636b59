"""The caption grammar: canonical forms, paraphrases, and reading both back."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statefilm.data.world import (
    CaptionError,
    Description,
    Group,
    canonical,
    paraphrase,
    parse,
    tokenize,
    vocabulary,
)
from statefilm.data.world import captions as grammar
from statefilm.data.world.scene import BACKGROUNDS, COLORS, MOTIONS, RELATIONS, SHAPES, SIZES

shapes = st.sampled_from(SHAPES)
colors = st.none() | st.sampled_from(list(COLORS))
sizes = st.none() | st.sampled_from(SIZES)
backgrounds = st.none() | st.sampled_from(list(BACKGROUNDS))
motions = st.lists(st.sampled_from(MOTIONS), max_size=2).map(tuple)
singles = st.builds(Group, shapes, colors, sizes)
movers = st.builds(Group, shapes, colors, sizes, motion=motions, becomes=colors)
several = st.builds(Group, shapes, colors, sizes, st.integers(2, 4))
groups = st.lists(singles | movers | several, min_size=1, max_size=4).map(tuple)
descriptions = st.builds(Description, groups, background=backgrounds) | st.builds(
    Description, st.tuples(singles, singles), st.sampled_from(RELATIONS), backgrounds
)


@settings(max_examples=300, deadline=None)
@given(descriptions)
def test_canonical_caption_reads_back(description):
    assert parse(canonical(description)) == description


@settings(max_examples=300, deadline=None)
@given(descriptions, st.randoms(use_true_random=False))
def test_every_paraphrase_reads_back(description, rng):
    caption = paraphrase(description, rng.choice)
    assert parse(caption) == description
    assert set(tokenize(caption)) <= set(vocabulary())


@pytest.mark.parametrize(
    ("caption", "description"),
    [
        ("a circle", Description((Group("circle"),))),
        ("an orange circle", Description((Group("circle", "orange"),))),
        ("a small red circle", Description((Group("circle", "red", "small"),))),
        ("a circle and a square", Description((Group("circle"), Group("square")))),
        ("three circles", Description((Group("circle", count=3),))),
        ("two crosses", Description((Group("cross", count=2),))),
        ("three red circles", Description((Group("circle", "red", count=3),))),
        ("a circle left of a square", Description((Group("circle"), Group("square")), "left of")),
        (
            "a red circle above a blue square",
            Description((Group("circle", "red"), Group("square", "blue")), "above"),
        ),
        (
            "a red circle and a blue square on a navy background",
            Description((Group("circle", "red"), Group("square", "blue")), background="navy"),
        ),
        ("a red circle moves left", Description((Group("circle", "red", motion=("left",)),))),
        ("a circle bounces", Description((Group("circle", motion=("bounce",)),))),
        (
            "a red circle moves right, then down",
            Description((Group("circle", "red", motion=("right", "down")),)),
        ),
        (
            "a circle grows, then moves up and turns blue on an olive background",
            Description(
                (Group("circle", motion=("grow", "up"), becomes="blue"),), background="olive"
            ),
        ),
        (
            "a red circle moves left and a blue square stays still",
            Description(
                (
                    Group("circle", "red", motion=("left",)),
                    Group("square", "blue", motion=("still",)),
                )
            ),
        ),
    ],
)
def test_canonical_forms(caption, description):
    assert canonical(description) == caption
    assert parse(caption) == description


def test_case_and_full_stop_do_not_matter():
    assert parse("A Red Circle above a blue square.") == parse("a red circle above a blue square")


TABLES = {
    "openings": {"": grammar.OPENINGS},
    "clip openings": {"": grammar.CLIP_OPENINGS},
    "joiners": {"": grammar.JOINERS},
    "settings": {"": grammar.SETTINGS},
    "thens": {"": grammar.THENS},
    "turns": {"": grammar.TURNS},
    "manners": {"": grammar.MANNERS},
    "counts": grammar.COUNTS,
    "sizes": grammar.SIZES,
    "nouns": grammar.NOUNS,
    "relations": grammar.RELATIONS,
    "verbs": grammar.VERBS,
}


@pytest.mark.parametrize("construct", TABLES)
def test_each_construct_has_four_phrases_of_its_own(construct):
    phrases = [phrase for meaning in TABLES[construct].values() for phrase in meaning]
    assert len(set(phrases)) == len(phrases)
    assert all(len(meaning) >= 4 for meaning in TABLES[construct].values())


def test_paraphrases_of_one_description_are_many():
    rng = random.Random(0)
    description = parse("a red circle left of a blue square")
    assert len({paraphrase(description, rng.choice) for _ in range(500)}) > 400


def test_vocabulary_is_sorted_lower_case_and_used():
    words = vocabulary()
    assert words == sorted(set(words))
    assert all(word == word.lower() and tokenize(word) == [word] for word in words)
    assert {"circle", "crosses", "red", "navy", "left", "bounces", ",", "."} <= set(words)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "circle",
        "a red",
        "a purple monkey",
        "two circle",
        "a circles",
        "a circle and",
        "a circle on a navy",
        "a circle on a pink background",
        "a circle a square",
        "a circle left of two squares",
        "a circle above a square and a cross",
        "three circles move left",
        "two circles moves left",
        "a circle moves left, then",
        "five circles",
    ],
)
def test_other_text_is_refused_in_one_line(caption):
    with pytest.raises(CaptionError) as caught:
        parse(caption)
    assert repr(caption) in str(caught.value)
    assert "\n" not in str(caught.value)
