"""Checkpoints: whole or not at all, and what is damaged is named."""

import json
import resource
import shutil

import pytest
import torch
from torch import nn

from statefilm.training.checkpoint import (
    PARTS,
    Saver,
    Snapshot,
    checkpoint_folders,
    find_snapshot,
    load_parameters,
    read_snapshot,
    replace_folder,
)
from statefilm.training.parallel import Ranks
from statefilm.training.recipe import Checkpoint
from statefilm.training.tensor_files import Rows, TensorFiles, write_tensors


def snapshot(step, value=1.0):
    tensor = torch.full((3, 2), value)
    # Not contiguous, and without dimensions: both occur.
    tensors = {
        "model": {"w": tensor},
        "ema": {"w": tensor.t()},
        "optimizer": {"step/w": tensor.sum()},
    }
    return Snapshot(tensors, {"step": step})


def save_snapshot(run, snapshot, **options):
    saver = Saver(run, Checkpoint(keep_last=2, **options), Ranks())
    saver.save(snapshot)
    saver.finish()


@pytest.fixture
def run(tmp_path):
    for step in (1, 2, 3):
        save_snapshot(tmp_path, snapshot(step, value=step))
    return tmp_path


def test_it_reads_what_it_wrote_and_keeps_the_last(run):
    assert [path.name for path in checkpoint_folders(run)] == ["step-00000002", "step-00000003"]
    found = find_snapshot(run, "auto")
    assert found.state == {"step": 3}
    for part, tensors in snapshot(3, value=3).tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[part][name], tensor)
            assert found.tensors[part].shape(name) == tensor.shape
    assert not list((run / "checkpoints").glob(".*"))


def test_a_damaged_later_one_does_not_push_out_whole_ones(run):
    (run / "checkpoints" / "step-00000003" / "model.safetensors").write_bytes(b"")
    for step in ("step-00000007", "step-00000008"):
        shutil.copytree(run / "checkpoints" / "step-00000003", run / "checkpoints" / step)
    save_snapshot(run, snapshot(4))
    assert find_snapshot(run, "auto").state == {"step": 4}
    save_snapshot(run, snapshot(5))
    names = [path.name for path in checkpoint_folders(run)]
    assert names == [f"step-{step:08d}" for step in (4, 5, 7, 8)]


def test_a_half_written_folder_is_no_checkpoint(run):
    def stop_midway(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        replace_folder(run / "checkpoints" / "step-00000004", stop_midway)
    assert find_snapshot(run, "auto").state == {"step": 3}
    save_snapshot(run, snapshot(4))
    assert find_snapshot(run, "auto").state == {"step": 4}


def test_an_old_folder_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "pipeline"
    replace_folder(target, lambda folder: (folder / "a").write_text("old"))
    with pytest.raises(OSError):
        replace_folder(target, lambda folder: (folder / "nowhere" / "a").write_text("new"))
    assert (target / "a").read_text() == "old"
    replace_folder(target, lambda folder: (folder / "a").write_text("new"))
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def _truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    return file


def _poison(folder):
    bad = snapshot(3, value=float("nan"))
    replace_folder(folder, lambda _: None)
    save_snapshot(folder.parents[1], bad)
    return folder / "model.safetensors"


def _remove(folder):
    file = folder / "ema.safetensors"
    file.unlink()
    return file


def _garble(folder):
    file = folder / "state.json"
    file.write_text("{", "utf-8")
    return file


def _empty(folder):
    file = folder / "state.json"
    file.write_text("{}", "utf-8")
    return file


@pytest.mark.parametrize("damage", [_truncate, _poison, _remove, _garble, _empty])
def test_damage_is_one_line_and_auto_takes_the_one_before(run, damage, warnings_of):
    folder = run / "checkpoints" / "step-00000003"
    file = damage(folder)
    with pytest.raises(ValueError) as caught:
        read_snapshot(folder)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find_snapshot(run, "auto").state == {"step": 2}
    (warning,) = warnings_of()
    assert str(file) in warning


def test_a_run_without_any_whole_checkpoint_does_not_start_over(run):
    for folder in checkpoint_folders(run):
        _truncate(folder)
    with pytest.raises(ValueError, match="no checkpoint is whole"):
        find_snapshot(run, "auto")


def test_nothing_is_lost_by_resuming_from_elsewhere(run, tmp_path_factory):
    first = run / "checkpoints" / "step-00000002"
    with pytest.raises(ValueError, match="later checkpoints"):
        find_snapshot(run, first)
    other = tmp_path_factory.mktemp("other")
    assert find_snapshot(other, first).state == {"step": 2}
    with pytest.raises(FileExistsError, match="holds a run"):
        find_snapshot(run, "none")
    assert find_snapshot(other, "none") is None
    assert find_snapshot(other, "auto") is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_snapshot(run, run / "nowhere")


def test_parameters_that_do_not_fit_are_named():
    layer = nn.Linear(2, 2)
    good = {name: torch.ones_like(p) for name, p in layer.named_parameters()}
    load_parameters(layer, good)
    assert layer.weight.eq(1).all()
    with pytest.raises(ValueError, match="unknown parameter 'extra'"):
        load_parameters(layer, {**good, "extra": torch.ones(1)})
    with pytest.raises(ValueError, match="lacks parameter 'bias'"):
        load_parameters(layer, {"weight": good["weight"]})
    with pytest.raises(ValueError, match=r"'bias' has shape \(3,\)"):
        load_parameters(layer, {**good, "bias": torch.ones(3)})


def test_the_state_is_plain_json(run):
    assert json.loads((run / "checkpoints" / "step-00000003" / "state.json").read_text()) == {
        "step": 3
    }


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(run, background):
    large = Snapshot({part: {"w": torch.ones(100_000)} for part in PARTS}, {"step": 4})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        message = r"step-00000004 could not be written .* is whole"
        with pytest.raises(OSError, match=message) as caught:
            save_snapshot(run, large, background=background)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not list((run / "checkpoints").glob(".*"))
    assert find_snapshot(run, "auto").state == {"step": 3}


def test_in_the_background_the_state_is_that_of_the_moment_it_was_saved(tmp_path):
    saver = Saver(tmp_path, Checkpoint(background=True), Ranks())
    weight = torch.ones(1_000_000)
    saver.save(Snapshot({part: {"w": weight} for part in PARTS}, {"step": 1}))
    weight.zero_()
    saver.finish()
    assert find_snapshot(tmp_path, "auto").tensors["model"]["w"].eq(1).all()


def test_rows_of_many_processes_are_read_in_any_other_cut(tmp_path):
    whole = torch.arange(21.0).view(7, 3)
    for rank, (start, stop) in enumerate([(0, 3), (3, 6), (6, 7)]):
        ranks = Ranks(rank, 3, shard=3)
        write_tensors(tmp_path, "model", {"w": Rows(whole[start:stop], start, 7)}, ranks)
    files = TensorFiles(tmp_path, "model")
    assert files.shape("w") == (7, 3)
    assert torch.equal(files["w"], whole)
    for start in range(8):
        for count in range(8 - start):
            assert torch.equal(files.rows("w", start, count), whole[start : start + count])
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00003.safetensors: missing"):
        TensorFiles(tmp_path, "model")


def test_a_missing_row_is_damage(tmp_path):
    for rank, (start, stop) in enumerate([(0, 3), (4, 7)]):
        rows = {"w": Rows(torch.ones(stop - start, 2), start, 7)}
        write_tensors(tmp_path, "model", rows, Ranks(rank, 2, shard=2))
    with pytest.raises(ValueError, match="rows of 'w' are missing"):
        TensorFiles(tmp_path, "model")
