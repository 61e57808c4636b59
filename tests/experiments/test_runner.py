"""A study at toy size: trained, measured and written up, and each arm only once."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from statefilm.cli.main import run
from statefilm.errors import UsageError
from statefilm.experiments import STUDIES, Measures, judging, report, run_study, write_report
from statefilm.experiments import study as studies
from statefilm.experiments.runner import LEVELS, _borrow, _read, _workers
from statefilm.pipelines import load_pipeline

TOY = {
    "compile": "none",
    "model.overrides.dim": 32,
    "model.overrides.ff_dim": 32,
    "model.overrides.patch_width": 4,
    "data.0.batch_size": 2,
    "samples.steps": 1,
}
BLOCK = {"mixer": "hydra", "image_scan": "H", "video_scan": "H"}


@pytest.fixture(scope="module")
def toy():
    arms = {
        name: {**TOY, "model.overrides.plan": [{**BLOCK, "image_scan": name}]}
        for name in ("H", "V")
    }
    measures = Measures(("single_object",), images={1.0: 3, 1.5: 2}, loss_samples=3)
    return replace(STUDIES["scan"], arms=arms, baseline="H", steps=2, measures=measures)


@pytest.fixture(scope="module")
def done(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    notes = []
    return folder, run_study(toy, folder, [0, 1], jobs=2, note=notes.append), notes


def test_every_arm_is_trained_and_measured_with_every_seed(toy, done):
    _, outcomes, notes = done
    assert [(one.arm, one.seed) for one in outcomes] == [("H", 0), ("H", 1), ("V", 0), ("V", 1)]
    assert len(notes) == 4 and "2 steps" in notes[0]
    for one in outcomes:
        counts = [one.metrics[f"single_object.strict{at}"].n for at in ("", "@1.5")]
        assert counts == [3, 2]
        assert list(one.losses) == [f"image {level:g}" for level in LEVELS]
        assert all(len(errors) == 3 and min(errors) > 0 for errors in one.losses.values())
    assert outcomes[0].losses != outcomes[2].losses


def test_what_is_done_is_not_done_again(toy, done):
    folder, outcomes, _ = done
    files = [folder / "V" / "seed-1" / name for name in ("outcome.json", "run/recipe.yaml")]
    before = [file.stat().st_mtime_ns for file in files]
    assert run_study(toy, folder, [1], arms=["H", "V"]) == [outcomes[1], outcomes[3]]
    assert [file.stat().st_mtime_ns for file in files] == before
    with pytest.raises(UsageError, match=r"seed-0 comes from another recipe or other measures"):
        run_study(replace(toy, steps=3), folder, [0], arms=["H"])
    fewer = replace(toy, measures=replace(toy.measures, loss_samples=2))
    with pytest.raises(UsageError, match=r"seed-0 comes from another recipe or other measures"):
        run_study(fewer, folder, [0], arms=["H"])
    once = run_study(toy, folder, [1], arms=["H", "V", "H"])
    assert [one.arm for one in once] == ["H", "V"]
    with pytest.raises(UsageError, match="unknown arm 'W': valid are H, V"):
        run_study(toy, folder, [0], arms=["W"])


def test_a_run_of_the_same_recipe_is_taken_from_another_study(toy, done):
    folder, outcomes, _ = done
    alike = replace(toy, arms={"the same": toy.arms["V"]}, baseline="the same")
    alike = replace(alike, measures=replace(toy.measures, images={1.0: 3}, loss_samples=2))
    (taken,) = run_study(alike, folder.parent / "alike", [1])
    assert taken.seconds == outcomes[3].seconds
    assert "single_object.strict@1.5" not in taken.metrics
    (fresh,) = run_study(replace(alike, steps=1), folder.parent / "fresh", [1])
    assert fresh.seconds != taken.seconds and fresh.steps == 1
    shutil.rmtree(folder.parent / "fresh" / "the-same" / "seed-1" / "run")
    (anew,) = run_study(replace(alike, steps=1), folder.parent / "anew", [1])
    assert anew.seconds != fresh.seconds and anew.losses == fresh.losses


def test_a_run_of_another_recipe_is_not_gone_on_with(toy, done, tmp_path):
    folder, _, _ = done
    shutil.copytree(folder / "H", tmp_path / "H")
    (tmp_path / "H" / "seed-0" / "outcome.json").unlink()
    with pytest.raises(UsageError, match="run holds a run of another recipe: give another folder"):
        run_study(replace(toy, steps=3), tmp_path, [0], arms=["H"])
    assert run_study(toy, tmp_path, [0], arms=["H"])[0].steps == 2


def test_arms_by_the_clock_of_other_threads_are_not_mixed(tmp_path):
    file = tmp_path / "outcome.json"
    file.write_text(json.dumps({"recipe": {}, "threads": 1}))
    with pytest.raises(UsageError, match="with 1 threads, not with 2: give as many --jobs"):
        _read(file, {"recipe": {}, "threads": 2})


def test_a_run_by_the_clock_is_lent_where_the_threads_are_as_many(tmp_path):
    recipe = STUDIES["mixer-time"].recipe_of("Hydra", 0)
    lent = tmp_path / "other" / "Hydra" / "seed-0"
    (lent / "run").mkdir(parents=True)
    for threads, taken in ((torch.get_num_threads() + 1, False), (torch.get_num_threads(), True)):
        made_with = {"recipe": recipe.model_dump(mode="json"), "threads": threads}
        (lent / "outcome.json").write_text(json.dumps(made_with))
        run = tmp_path / "mixer-time" / "Hydra" / "seed-0" / "run"
        run.parent.mkdir(parents=True, exist_ok=True)
        _borrow(run, recipe, tmp_path)
        assert run.is_dir() == taken


def test_the_page_of_a_baseline_alone_says_so(toy, done, tmp_path):
    folder, outcomes, _ = done
    toy = replace(toy, headline="single_object.strict")
    page = write_report(toy, [one for one in outcomes if one.arm == "H"], folder, tmp_path)
    assert page.read_text("utf-8").endswith("## Found\n\nThere is no other arm than H.\n")


def test_the_page_holds_tables_pictures_and_a_sentence(toy, done, tmp_path):
    folder, outcomes, _ = done
    toy = replace(toy, headline="single_object.strict")
    page = write_report(toy, outcomes, folder, tmp_path)
    text = page.read_text("utf-8")
    assert text.startswith("# Study: scan\n")
    found = "Against H, at this budget and with 2 seeds: in single_object.strict "
    assert text.split("## Found\n\n")[1].startswith(found)
    assert '"a red circle", "a green square"' in text.split("## Samples")[1]
    assert text.index("samples-1.png") < text.index("At 1.5 times the trained size:")
    for name in ("samples-0.png", "samples-0@1.5.png"):
        assert f"(scan/{name})" in text
        with Image.open(tmp_path / "scan" / name) as picture:
            assert picture.height > 100
    for part in ("## Training", "## Figures", "single_object.strict@1.5", "`experiment_t2i`"):
        assert part in text
    pictures = {file.name for file in (tmp_path / "scan").iterdir()}
    samples = {f"samples-{arm}{at}.png" for arm in (0, 1) for at in ("", "@1.5")}
    assert pictures == {"plot.png", *samples}
    figures = text.split("## Figures")[1]
    assert "parity" not in figures and ".seen" not in figures


def test_strict_verdicts_have_rows_for_what_was_seen_and_held_out():
    names = ["colors.strict", "colors.parity", "colors.soft.seen", "single_object.strict.seen"]
    both = ["colors.strict.seen", "colors.strict.heldout"]
    shown = [name for name in names + both if report._is_shown(name, names + both)]
    assert shown == ["colors.strict", *both]


def test_a_first_stage_is_trained_once_and_arms_draw_at_the_precision_of_training(
    toy, tmp_path, monkeypatch
):
    precisions = []

    def load(folder, dtype, *rest, **kind):
        precisions.append(dtype)
        return load_pipeline(folder, dtype, *rest, **kind)

    monkeypatch.setattr(judging, "load_pipeline", load)
    first = studies.Stage("experiment_t2i", 1, toy.arms["H"])
    changes = {"compile": "none", "data.0.batch_size": 1, "data.1.batch_size": 1}
    changes |= {"samples.steps": 1}
    study = replace(
        STUDIES["temporal"],
        arms={
            name: {**changes, "model.plan": {"temporal_fraction": share}}
            for name, share in (("none", 0.0), ("all", 1.0))
        },
        steps=1,
        before=first,
        measures=Measures((), clips=1, loss_samples=1),
    )
    outcomes = run_study(study, tmp_path, [0])
    assert {one.arm for one in outcomes} == {"none", "all"}
    assert precisions == ["bfloat16", "bfloat16"]
    assert "motion_class" in outcomes[0].metrics
    assert (tmp_path / "before" / "seed-0" / "pipeline").is_dir()
    assert any(name.startswith("video") for name in outcomes[0].losses)


def test_a_first_stage_that_is_a_vae_is_measured_and_losses_on_it_are_not_compared(toy, tmp_path):
    latents = STUDIES["latents"].arms["latents"]
    shape = {name: value for name, value in latents.items() if name.startswith("model.")}
    study = replace(
        toy,
        arms={"pixels": toy.arms["H"], "latents": {**toy.arms["H"], **shape}},
        baseline="latents",
        before=studies.Stage(
            "experiment_vae", 1, {"data.0.batch_size": 1}, fills=("vae",), arms=("latents",)
        ),
    )
    outcomes = run_study(study, tmp_path, [3])
    kept = tmp_path / "before" / "seed-3" / "kept" / "results.json"
    found = json.loads(kept.read_text())
    kept.write_text(kept.read_text().replace('"n": 500', '"n": 512'))
    run_study(study, tmp_path, [3])  # what was measured is not measured again
    page = report.write_report(study, outcomes, tmp_path, tmp_path / "pages").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    (vae,) = [row for row in rows if row and row[0] == "3"]
    scene = f"{found['metrics']['scene']['value']:.3f}"
    assert scene in vae and "512" in vae and vae[-1].endswith("dB")
    assert "| rendered | " in page and "1.000" in page
    (pixels,) = [row for row in rows if row and row[0] == "pixels"]
    assert float(pixels[-2]) > 0 and pixels[-1] == "-"
    assert "of another scale" in page and "in the loss" not in page.split("## Found")[1]


def test_the_command_lists_studies_and_names_bad_input(capsys, tmp_path):
    assert run(["experiment"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in STUDIES)
    for words, message in (
        (["ratoi"], "did you mean 'ratio'"),
        (["scan", "--seeds", "0,0"], "different whole numbers"),
        (["scan", "--arms", "H"], "leaves out 'H V'"),
        (["scan", "--share", "0"], "--share 0: valid is more than 0"),
        (["latents", "--share", "nan"], "--share nan: valid is more than 0"),
        (["temporal-quality", "--share", "inf"], "--share inf: valid is more than 0"),
    ):
        assert run(["experiment", *words, "-o", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


KILLED = """
import os, time
from functools import partial
from statefilm.experiments.runner import _workers

if __name__ == "__main__":
    with _workers(2) as do_all:
        results = do_all([os.getpid, *[partial(time.sleep, 600)] * 3])
        print(next(results), flush=True)
        next(results)
"""


def test_no_worker_outlives_the_command(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED, "utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as command:
        assert command.stdout.readline().strip().isdigit()
        command.kill()
        command.communicate(timeout=60)  # at its end no process has standard output open


def test_after_an_error_no_more_is_begun(tmp_path):
    waits = [partial(time.sleep, 2)] * 6  # a pool holds a few calls ready, which it still does
    with pytest.raises(ValueError, match="'x'"), _workers(2) as do_all:
        list(do_all([partial(int, "x"), *waits, (tmp_path / "begun").touch]))
    assert not (tmp_path / "begun").exists()
