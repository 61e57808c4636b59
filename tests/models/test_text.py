"""Text conditioning: the word tokenizer, T5 encoders, and prompts as states."""

import logging
from itertools import permutations

import pytest
import torch
from safetensors.torch import save_file

from statefilm.errors import UsageError
from statefilm.models.text import (
    TEXT_PRESETS,
    build_text_encoder,
    build_word_tokenizer,
    encode_prompts,
    load_text_encoder,
    unknown_words,
    words_of,
)

CAPTIONS = ["a red circle left of a blue square", "it moves right, then down", "dark-grey"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_word_tokenizer(CAPTIONS, max_length=16)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    torch.manual_seed(0)
    return build_text_encoder("world_t5", vocab_size=len(tokenizer), num_layers=1).eval()


def encode(tokenizer, encoder, prompts, max_length=16):
    with torch.no_grad():
        return encode_prompts(tokenizer, encoder, prompts, max_length)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("A RED circle", "a red circle </s>"),
        ("moves right, then down.", "moves right , then down </s>"),
        ("a  red\tcircle!?", "a red circle </s>"),
        ("dark-grey", "dark - grey </s>"),
        ("a ｒｅｄ circle", "a red circle </s>"),
        ("a zebra", "a <unk> </s>"),
        ("", "</s>"),
    ],
)
def test_prompts_split_into_words(tokenizer, prompt, tokens):
    assert tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"]) == tokens.split()


def test_the_vocabulary_is_covered_and_ids_follow_its_order(tokenizer):
    for caption in CAPTIONS:
        assert tokenizer.unk_token_id not in tokenizer(caption)["input_ids"]
    first = build_word_tokenizer(["b a", "c"]).get_vocab()
    assert sorted(first, key=first.get) == ["<pad>", "</s>", "<unk>", "b", "a", "c"]


@pytest.mark.parametrize("text", ["नमस्ते दुनिया, कैसे हो?", "ภาพ แมวสีแดง", "قِطَّة حَمْراء!", "a_b c-d"])
def test_a_tokenizer_of_the_words_of_a_text_knows_the_text(text):
    known = build_word_tokenizer(words_of(text))
    ids = known(text)["input_ids"]
    assert known.unk_token_id not in ids and len(ids) == len(words_of(text)) + 1


def test_unknown_words_are_named_as_they_were_written(tokenizer):
    prompt = "a Zebra left of a Yellow circle, then a Zebra."
    assert unknown_words(tokenizer, prompt) == ["Zebra", "Yellow"]
    assert unknown_words(tokenizer, "A red circle.") == []


def test_states_have_one_row_a_token_and_zeros_behind(tokenizer, encoder):
    states, mask = encode(tokenizer, encoder, ["a red circle", "", CAPTIONS[0]])
    assert states.shape == (3, 16, 256)
    assert mask.sum(1).tolist() == [4, 1, 9]
    assert states[~mask].abs().max() == 0
    assert states[mask].abs().amax(1).min() > 0


def test_a_prompt_is_the_same_alone_and_in_a_batch(tokenizer, encoder):
    alone, mask = encode(tokenizer, encoder, ["a blue square"])
    batch, _ = encode(tokenizer, encoder, [CAPTIONS[0], "a blue square"])
    length = int(mask.sum())
    torch.testing.assert_close(batch[1, :length], alone[0, :length], atol=1e-5, rtol=1e-5)


def test_word_order_reaches_the_states(tokenizer, encoder):
    states, _ = encode(
        tokenizer, encoder, ["red circle left of square", "square left of red circle"]
    )
    assert (states[0].mean(0) - states[1].mean(0)).abs().max() > 1e-3


def test_states_of_a_fresh_encoder_tell_what_belongs_together():
    """A linear reading of a noun's state, fitted on half of the captions, names its colour."""
    colors = ("red", "green", "blue", "white")
    prompts = [
        f"a {a} circle {relation} a {b} square"
        for a, b in permutations(colors, 2)
        for relation in ("and", "above", "below", "left of", "right of", "over", "under", "with")
    ]
    tokenizer = build_word_tokenizer(prompts)
    torch.manual_seed(0)
    fresh = build_text_encoder("world_t5", vocab_size=len(tokenizer), num_layers=2)
    with torch.no_grad():
        states = encode_prompts(tokenizer, fresh, prompts, 12)[0][:, 2].double()  # of "circle"
    states = torch.cat([states, torch.ones(len(states), 1)], 1)
    own = torch.tensor([colors.index(prompt.split()[1]) for prompt in prompts])
    train, test = torch.randperm(len(prompts)).chunk(2)
    x, y = states[train], torch.nn.functional.one_hot(own[train]).double()
    weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ y)
    assert ((states[test] @ weights).argmax(1) == own[test]).double().mean() > 0.98


def test_the_encoder_can_be_trained_through_its_states(tokenizer, encoder):
    states, mask = encode_prompts(tokenizer, encoder, ["a red circle", "a square"], 16)
    states[mask].square().sum().backward()
    grads = {name: p.grad for name, p in encoder.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    # Of the words, only those in the prompts and the end token move.
    moved = grads["shared.weight"].abs().sum(1).nonzero().flatten().tolist()
    words = ["</s>", "a", "circle", "red", "square"]
    assert sorted(moved) == sorted(tokenizer.convert_tokens_to_ids(words))
    encoder.zero_grad()


def test_a_cut_prompt_keeps_its_end_token_and_says_what_was_lost(tokenizer, encoder, caplog):
    with caplog.at_level(logging.WARNING):
        states, mask = encode(tokenizer, encoder, [CAPTIONS[0]], max_length=6)
        assert "'of a blue square'" not in caplog.text
        assert "'a blue square'" in caplog.text
    expected, _ = encode(tokenizer, encoder, ["a red circle left of"], max_length=6)
    assert mask.sum() == 6
    torch.testing.assert_close(states, expected)


def test_presets_are_the_sizes_they_are_named_for():
    with torch.device("meta"):
        xxl = build_text_encoder("flan_t5_xxl")
        small = build_text_encoder("world_t5")
    assert xxl.config.d_model == 4096
    assert 4.7e9 < sum(p.numel() for p in xxl.parameters()) < 4.8e9
    assert 2e6 < sum(p.numel() for p in small.parameters()) < 3e6
    assert TEXT_PRESETS["world_t5"]["dropout_rate"] == 0


@pytest.mark.parametrize("nested", [False, True])
def test_folders_load_flat_and_nested(tmp_path, tokenizer, encoder, nested):
    tokenizer.save_pretrained(tmp_path / "tokenizer" if nested else tmp_path)
    encoder.save_pretrained(tmp_path / "text_encoder" if nested else tmp_path)
    loaded_tokenizer, loaded = load_text_encoder(tmp_path)
    assert not loaded.training
    states, _ = encode(loaded_tokenizer, loaded, ["a red circle"])
    assert torch.equal(states, encode(tokenizer, encoder, ["a red circle"])[0])
    half, _ = encode(*load_text_encoder(tmp_path, dtype=torch.bfloat16), ["a red circle"])
    assert half.dtype == torch.bfloat16


def test_bad_names_and_folders_are_one_line_errors(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'world_t5'"):
        build_text_encoder("word_t5")
    with pytest.raises(UsageError, match="did you mean 'num_layers'"):
        build_text_encoder("world_t5", num_layer=2)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_text_encoder(tmp_path / "absent")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="safetensors"):
        load_text_encoder(tmp_path)
    save_file({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"model\.safetensors: tensor 'a' holds NaN"):
        load_text_encoder(tmp_path)
