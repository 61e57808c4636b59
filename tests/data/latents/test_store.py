"""Folders of latents: written whole or not at all, and what is damaged is named in one line."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from statefilm.data.latents import (
    INDEX,
    LATENTS,
    TEXT,
    Shards,
    key_of,
    keys_in,
    open_latents,
    read_index,
    shard_files,
    verify,
    write_index,
    write_shard,
)
from statefilm.errors import UsageError


@settings(max_examples=20)
@given(count=st.integers(1, 50), width=st.integers(0, 5))
def test_what_is_written_is_read_back(tmp_path_factory, count, width):
    folder = tmp_path_factory.mktemp("shards")
    keys = [key_of(number) for number in range(count)]
    rows = torch.randn(count, width)
    shard = write_shard(folder, keys, {"rows": rows})
    assert shard_files(folder) == [shard]
    assert keys_in(shard) == keys
    shards = Shards()
    for number in range(count):
        assert torch.equal(shards.row(shard, number)["rows"], rows[number])


def test_equal_shards_are_one_file_and_nothing_is_left_over(tmp_path):
    for _ in range(2):
        write_shard(tmp_path, [key_of(1)], {"rows": torch.zeros(1, 2)})
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_nothing(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError):
        write_shard(file, [key_of(1)], {"rows": torch.zeros(1)})
    with pytest.raises(ValueError):
        write_shard(tmp_path / "here", ["not hexadecimal"], {"rows": torch.zeros(1)})
    assert not shard_files(tmp_path / "here")


def test_keys_depend_on_every_part():
    keys = {key_of(), key_of(1), key_of("1"), key_of(1, None), key_of([1, None]), key_of("1", "")}
    assert len(keys) == 6


def test_the_index_round_trips(save):
    index = read_index(save())
    assert len(index.rows) == 11 and index.made == {"version": "test"}
    folder = save(name="again")
    write_index(folder, index)
    assert read_index(folder) == index


def test_a_whole_folder_is_whole(save):
    folder = save()
    check = verify(folder)
    assert check.is_whole
    assert (check.samples, check.shards, check.unused) == (11, 6, 0)
    assert check.size == sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def test_a_changed_byte_is_found(save):
    folder = save()
    shard = shard_files(folder / LATENTS)[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    check = verify(folder)
    assert check.damaged == (str(shard),)
    assert check.missing and not check.is_whole
    assert check.shards == 6


def test_a_missing_shard_is_named_and_its_samples_listed(save):
    folder = save()
    shard_files(folder / LATENTS)[0].unlink()
    with pytest.raises(UsageError, match=r"a shard is missing .*run statefilm encode again"):
        open_latents(folder)
    check = verify(folder)
    assert check.missing and all(name.endswith(".png") for name in check.missing)
    (text,) = shard_files(save(name="other") / TEXT)
    text.unlink()
    assert "caption ''" in verify(text.parents[1]).missing


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_truncated_shard_is_one_line(save, cut):
    folder = save()
    shard = shard_files(folder / LATENTS)[0]
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(UsageError, match=r"damaged shard .*delete it") as caught:
        open_latents(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "damaged"),
        (lambda text: text[:-20], "not those that were written"),
        (lambda text: text.replace("0.png", "9.png"), "not those that were written"),
        (lambda text: text.replace('"format": 1', '"format": 7'), "format 7, not 1"),
        (lambda text: "[]" + text[text.index("\n") :], "damaged"),
    ],
)
def test_a_damaged_index_is_one_line(save, change, words):
    folder = save()
    file = folder / INDEX
    file.write_text(change(file.read_text()))
    with pytest.raises(UsageError, match=words) as caught:
        read_index(folder)
    assert "\n" not in str(caught.value)


def test_what_is_not_finished_is_not_read(save, tmp_path):
    folder = save()
    (folder / INDEX).unlink()
    with pytest.raises(UsageError, match="encode has not finished there"):
        open_latents(folder)
    with pytest.raises(FileNotFoundError, match="no such folder of latents"):
        open_latents(tmp_path / "nowhere")
