"""What all tests share: no network, one thread a worker, the same random numbers each time."""

import os

# Before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    # Read when triton is first imported, by whatever test comes to it.
    os.environ.setdefault("TRITON_INTERPRET", "1")

hypothesis.settings.register_profile(
    "statefilm", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("statefilm")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
