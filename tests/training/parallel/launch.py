"""Training runs on several processes: `python launch.py JOBS.json`, one import for all of them.

JOBS is a list of {"processes": N, "runs": [[RECIPE, FOLDER, [CHANGE, ...], RESUME], ...]}. The runs
of an entry follow one another on the same N processes, and what one raises becomes a line of
`FOLDER.errors`. An entry with "muon": FILE writes there what `muon` returns, one with "graphs":
FILE how many graphs its rank 0 compiled. What may befall the last process of an entry:

- "largest": BYTES, it cannot write longer files, as if its disk were full;
- "infinite": [STEP, ...], its losses of these steps are infinite;
- "killed": STEP, it is gone from that step on, and `FOLDER.ends` of the first run holds the exit
  codes of all and the seconds from its end to that of the others. With "deaf": true the others
  then wait where nobody tells them, as in NCCL.
"""

import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from statefilm.training import Trainer, load_recipe
from statefilm.training.batches import Batch
from statefilm.training.muon import SharedMuon

# Rows that processes cannot share evenly, fewer rows than processes, and matrices either way.
MATRICES = ((7, 5), (1, 4), (6, 6), (3, 8), (4, 2))


def muon(size: int, sharded: bool) -> dict[str, torch.Tensor]:
    """The matrices after three steps, on whatever processes there are."""
    generator = torch.Generator().manual_seed(0)
    draws = [[torch.randn(s, generator=generator) for s in MATRICES] for _ in range(4)]
    mesh = init_device_mesh("cpu", (size,)) if sharded else None

    def place(matrix: torch.Tensor) -> torch.Tensor:
        return matrix if mesh is None else distribute_tensor(matrix, mesh, [Shard(0)])

    matrices = [nn.Parameter(place(matrix)) for matrix in draws[0]]
    optimizer = SharedMuon(matrices, lr=0.1, weight_decay=0.1)
    for gradients in draws[1:]:
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = place(gradient)
        optimizer.step()
    values = [m.detach() if mesh is None else m.detach().full_tensor() for m in matrices]
    return {str(index): value for index, value in enumerate(values)}


class Unlucky(Trainer):
    """A trainer of one of the processes of an entry, and what befalls the last of them."""

    job: dict = {}

    def _build(self, vocabulary: list[str] | None = None) -> None:
        super()._build(vocabulary)
        loss, is_last = self.task.loss, self.ranks.rank == self.ranks.size - 1

        def own_loss(batch: Batch) -> torch.Tensor:
            step = self.counters.step
            if is_last and step == self.job.get("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if step == self.job.get("killed") and self.job.get("deaf"):
                time.sleep(60)
            is_infinite = is_last and step in self.job.get("infinite", ())
            return loss(batch) * (float("inf") if is_infinite else 1)

        self.task.loss = own_loss


def work(rank: int, size: int, port: int, job: dict) -> None:
    """One process of a group."""
    warnings.simplefilter("error")
    # torch's own modules, at import of the compiler and when it looks at tensors
    warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
    torch.set_num_threads(1)
    if size > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
        os.environ |= {"MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "launch.py"}
        dist.init_process_group("gloo")
    if "largest" in job and rank == size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"], job["largest"]))
    for name, folder, changes, resume in job["runs"]:
        try:
            trainer = Unlucky(load_recipe(name, changes), folder, device="cpu", quiet=True)
            trainer.job = job
            trainer.fit(resume)
        except Exception as error:
            with Path(f"{folder}.errors").open("a") as file:
                file.write(f"{type(error).__name__}: {error}\n")
    if "graphs" in job and rank == 0:
        found = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        Path(job["graphs"]).write_text(str(found))
    for sharded in (False, True) if "muon" in job else ():
        values = muon(size, sharded and size > 1)
        if rank == 0:
            save_file(values, f"{job['muon']}-{sharded}.safetensors")
    if size > 1:
        dist.destroy_process_group()


def main() -> None:
    """Start each entry's processes and wait for them."""
    fork = multiprocessing.get_context("fork")
    for job in json.loads(Path(sys.argv[1]).read_text()):
        with socket.socket() as one:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
        size = job["processes"]
        group = [fork.Process(target=work, args=(rank, size, port, job)) for rank in range(size)]
        for process in group:
            process.start()
        group[-1].join()
        ended = time.monotonic()
        for process in group:
            process.join()
        if "killed" in job:
            ends = {
                "codes": [process.exitcode for process in group],
                "seconds": time.monotonic() - ended,
            }
            Path(f"{job['runs'][0][1]}.ends").write_text(json.dumps(ends))


if __name__ == "__main__":
    main()
