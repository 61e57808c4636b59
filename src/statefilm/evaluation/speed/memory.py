"""Peak memory of one call, on top of what was held before it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from statefilm.ops.quasiseparable import native

COUNTED = {
    "cpu": "bytes that torch's CPU allocator holds at the peak of one call, beside inputs and "
    "weights; buffers that libraries allocate by themselves are not seen",
    "cuda": "torch.cuda.max_memory_allocated over one call, beside inputs and weights",
}


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """The most that is allocated during `run()`, less what was before; see `COUNTED`.

    Returns:
        Bytes, results and gradients that the call returns included; None on devices that do not
        tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    native.release()  # else what earlier calls left would serve this one uncounted
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler's library tells each start
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = (event.nbytes() for event in events if event.name() == "[memory]")
    return max(accumulate(changes, initial=0))
