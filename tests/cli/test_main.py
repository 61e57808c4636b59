"""The command as a program: help in time, exit codes, interruption, and how errors read."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

import statefilm
from statefilm.cli.errors import OUT_OF_MEMORY, describe
from statefilm.cli.main import run

PROGRAM = [sys.executable, "-m", "statefilm"]


@pytest.mark.parametrize("args", [["--help"], ["image", "--help"], ["video", "--help"]])
def test_help_answers_without_torch(args):
    loaded = "import sys; from statefilm.cli.main import run; run(sys.argv[1:]); "
    loaded += "print([m for m in ('torch', 'numpy', 'rich', 'PIL') if m in sys.modules])"
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", loaded, *args], capture_output=True, text=True, check=True
        )
        best = min(best, time.perf_counter() - start)
    assert done.stdout.startswith("Usage: statefilm")
    assert done.stdout.endswith("[]\n")
    assert best < 1.0  # 0.15 s when the machine is idle


def test_help_names_every_sampler(cli):
    from statefilm.pipelines import SAMPLERS

    assert all(name in cli("image", "--help").out for name in SAMPLERS)


def test_program_exit_codes_and_streams():
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"statefilm {statefilm.__version__}\n")
    done = subprocess.run([*PROGRAM, "imagine"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such command 'imagine'\nhint: did you mean 'image'?\n"


def test_interruption_exits_130_and_leaves_no_part(model, tmp_path):
    args = ["image", "a circle", "-m", str(model), "--steps", "1000000", "-s", "1"]
    with subprocess.Popen(
        [*PROGRAM, *args],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores SIGINT, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            while process.stderr.readline() != "seed 1\n":
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == "" and err.endswith("interrupted\n") and "Traceback" not in err
    assert not any(tmp_path.rglob("*.png"))


def test_an_error_is_one_write_that_another_process_cannot_split():
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)  # keeps writes apart
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with ours, theirs:
        subprocess.run([*PROGRAM, "imagine"], stderr=theirs, env=unbuffered, check=False)
        ours.settimeout(5)
        assert ours.recv(1000) == b"error: no such command 'imagine'\nhint: did you mean 'image'?\n"


def test_a_closed_pipe_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "--version"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_verbose_shows_the_traceback(cli):
    assert "Traceback" not in cli("image", "a", "-m", "no/model").err
    outcome = cli("image", "a", "-m", "no/model", "-v")
    assert outcome.code == 2
    assert outcome.err.startswith("Traceback") and "\nerror: " in outcome.err


def test_no_arguments_is_help(cli):
    assert cli() == cli("--help")
    assert run(["data"]) == 2


@pytest.mark.parametrize("size", [2**50, 2**62])
def test_torchs_own_failures_to_allocate_exit_4(size):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(size, dtype=torch.float64)
    failure = describe(caught.value)
    assert failure.code == OUT_OF_MEMORY
    assert failure.message.startswith("out of memory: ") and "\n" not in failure.message


def test_a_library_that_was_cut_off_is_named():
    place = "/tmp/torchinductor_me/tl/ctlpkk.main.so"
    failure = describe(RuntimeError(f"ImportError: {place}: file too short Set TORCHDYNAMO"))
    assert failure.code == 1
    assert failure.hint.endswith("remove /tmp/torchinductor_me/tl")


def test_other_errors_exit_1_and_name_themselves():
    failure = describe(ZeroDivisionError("division\nby zero"))
    assert (failure.code, failure.message) == (1, "ZeroDivisionError: division by zero")
    assert "--verbose" in failure.hint
    assert describe(OSError("disk full")).code == 1
