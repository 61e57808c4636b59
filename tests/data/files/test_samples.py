"""Samples: batches that depend on their indices alone, and bad items put aside and counted."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from statefilm.data.files import (
    BucketPlan,
    FileSamples,
    Limits,
    Quarantine,
    Source,
    assign,
    make_buckets,
    open_source,
)
from statefilm.errors import UsageError

SQUARES = make_buckets(16 * 16, 8, ratios=(1,), lengths=(1, 5))


def truncate(path):
    """Leave the header whole and the pixels not."""
    path.write_bytes(path.read_bytes()[:-28])


def run(samples, steps=10):
    """The names of the samples of some steps."""
    size = samples.plan.batch_size
    return [samples.batch(step * size, size).names for step in range(steps)]


@pytest.fixture
def folder(tmp_path, save_image):
    """Forty pictures, told apart by their grey level."""
    for number in range(40):
        save_image(tmp_path / "data" / f"{number:02d}.png", (20, 20), (6 * number,) * 3)
        (tmp_path / "data" / f"{number:02d}.txt").write_text(f"level {number}")
    return tmp_path / "data"


def samples_of(folder, batch_size=4, quarantine=None, seed=0):
    source = open_source(folder)
    plan = BucketPlan(assign(source.entries, SQUARES), batch_size, seed)
    return FileSamples(source, plan, quarantine)


def test_a_batch_holds_frames_captions_and_names(folder):
    samples = samples_of(folder)
    batch = samples.batch(8, 4)
    assert batch.frames.shape == (4, 3, 1, 16, 16) and batch.frames.dtype == torch.float32
    for frames, caption, name in zip(batch.frames, batch.captions, batch.names, strict=True):
        number = int(name[:2])
        assert caption == f"level {number}"
        assert torch.allclose(frames, torch.tensor(6 * number / 127.5 - 1))


def test_parts_of_a_batch_are_those_of_the_whole(folder, save_clip):
    save_clip(folder / "clip.mp4", frames=12, size=(40, 24))
    whole = samples_of(folder)
    alone = samples_of(folder)
    shapes = set()
    for step in range(whole.plan.steps_per_epoch):
        batch = whole.batch(4 * step, 4)
        parts = [alone.batch(4 * step + 2, 2), alone.batch(4 * step, 2)]
        assert torch.equal(batch.frames, torch.cat([parts[1].frames, parts[0].frames]))
        assert batch.names == parts[1].names + parts[0].names
        shapes.add(batch.frames.shape[2])
        assert batch.frames.shape[2] == whole.bucket(step).num_frames
    assert shapes == {1, 5}
    with pytest.raises(UsageError, match="samples 2 to 5 are not of one step"):
        whole.batch(2, 4)


def test_worker_processes_get_the_same_samples(folder):
    samples = samples_of(folder)
    there = pickle.loads(pickle.dumps(samples))
    assert torch.equal(there.batch(12, 4).frames, samples.batch(12, 4).frames)


def test_a_bad_item_is_put_aside_and_replaced_by_another(folder, tmp_path):
    planned = run(samples_of(folder))
    truncate(folder / "07.png")
    file = tmp_path / "run" / "quarantine.jsonl"
    samples = samples_of(folder, quarantine=Quarantine(file))
    for wanted_names, names in zip(planned, run(samples), strict=True):
        for wanted, name in zip(wanted_names, names, strict=True):
            assert (name == wanted) == (wanted != "07.png") and name != "07.png"
    (row,) = map(json.loads, file.read_text().splitlines())
    assert row["name"] == "07.png" and "truncated" in row["reason"]
    again = samples_of(folder, quarantine=Quarantine(file))
    assert run(again) == run(samples)
    assert list(again.quarantine.reasons) == ["07.png"]


def test_a_few_more_bad_items_at_the_start_are_let_pass():
    early, all_seen = Quarantine(), Quarantine()
    for number in range(6):
        early.add(f"{number}", "bad", 200, total=100_000)
    with pytest.raises(UsageError, match="7 of 200 items are bad"):
        early.add("6", "bad", 200, total=100_000)
    for number in range(4):
        all_seen.add(f"{number}", "bad", 200, total=200)
    with pytest.raises(UsageError, match="5 of 200 items are bad"):
        all_seen.add("4", "bad", 200, total=200)


def test_what_was_mended_or_taken_away_counts_no_more(tmp_path, save_image):
    folder, file = tmp_path / "data", tmp_path / "quarantine.jsonl"
    for number in range(200):
        save_image(folder / f"{number:03d}.png", (20, 20), (number, 0, 0))
    whole = {number: (folder / f"{number:03d}.png").read_bytes() for number in range(5)}
    for number in whole:
        truncate(folder / f"{number:03d}.png")
    with pytest.raises(UsageError, match=r"5 of \d+ items are bad") as caught:
        run(samples_of(folder, quarantine=Quarantine(file)), steps=100)
    assert str(caught.value).endswith(f"mend or remove all that {file} lists")
    assert len(Quarantine(file)) == 5
    for number in (0, 1, 2):
        (folder / f"{number:03d}.png").write_bytes(whole[number])
    (folder / "003.png").unlink()
    truncate(folder / "100.png")
    samples = samples_of(folder, quarantine=Quarantine(file))
    assert list(samples.quarantine.reasons) == list(Quarantine(file).reasons) == ["004.png"]
    run(samples, steps=100)
    assert set(Quarantine(file).reasons) == {"004.png", "100.png"}


def test_what_the_index_refused_before_is_kept_or_mended(folder, tmp_path):
    file, content = tmp_path / "quarantine.jsonl", (folder / "00.png").read_bytes()
    for number in (0, 1):
        (folder / f"{number:02d}.png").write_bytes(b"")
    samples_of(folder, quarantine=Quarantine(file))
    written = file.read_bytes()
    samples_of(folder, quarantine=Quarantine(file))
    assert file.read_bytes() == written and len(Quarantine(file)) == 2
    (folder / "00.png").write_bytes(content)
    samples_of(folder, quarantine=Quarantine(file))
    assert set(Quarantine(file).reasons) == {"01.png"}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]


def test_processes_that_forget_keep_what_others_found(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    first = Quarantine(file)
    first.add("old.png", "x", 100)
    second = Quarantine(file)
    first.add("new.png", "x", 100)
    second.forget({"old.png"})
    first.forget({"old.png"})
    assert set(second.reasons) == set(first.reasons) == set(Quarantine(file).reasons) == {"new.png"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_says_where():
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        Quarantine("/dev/full").add("a.png", "x", 100)


def test_too_many_bad_items_stop_the_run(folder):
    for number in range(5):
        truncate(folder / f"{number:02d}.png")
    samples = samples_of(folder)
    with pytest.raises(UsageError, match=r"^5 of \d+ items are bad, more than 1.0%; the last is 0"):
        run(samples)
    patient = samples_of(folder, quarantine=Quarantine(share=0.5, least=6))
    run(patient)
    assert len(patient.quarantine) == 5


def test_what_the_index_refused_counts_too(folder):
    for number in range(5):
        (folder / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(UsageError, match="5 of 40 items are bad"):
        samples_of(folder)


def test_a_bucket_of_bad_items_alone_is_an_error(folder):
    for path in sorted(folder.glob("*.png")):
        if path.name != "39.png":
            truncate(path)
    samples = samples_of(folder, quarantine=Quarantine(share=1.0, least=100))
    with pytest.raises(UsageError, match="bucket 16x16: 16 items in a row are bad"):
        run(samples)


def test_processes_share_a_quarantine(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    first, second = Quarantine(file), Quarantine(file)
    for number in range(4):
        (first, second)[number % 2].add(f"{number}.png", "why\nnot", 100)
    with pytest.raises(UsageError, match="5 of 100 items are bad"):
        second.add("4.png", "x", 100)
    with file.open("a") as torn:
        torn.write('{"name": "5.pn')
    assert set(Quarantine(file).reasons) == {f"{number}.png" for number in range(5)}


def test_few_of_many_are_let_pass():
    quarantine = Quarantine()
    for number in range(10):
        quarantine.add(f"{number}", "bad", 1000)
    with pytest.raises(UsageError, match="11 of 1000"):
        quarantine.add("10", "bad", 1000)
    with pytest.raises(UsageError, match="share 2"):
        Quarantine(share=2)


def test_reading_obeys_the_limits_of_the_source(folder):
    source = open_source(folder)
    strict = Source(source.root, source.layout, source.entries, {}, Limits(pixels=100))
    samples = FileSamples(strict, BucketPlan(assign(source.entries, SQUARES), 4, 0))
    with pytest.raises(UsageError, match="20 x 20 is more than 100 pixels"):
        run(samples)
