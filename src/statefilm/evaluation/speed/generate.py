"""Whole generations by a model: text, denoising, decoding and saving, each with its time."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.evaluation.speed.report import Report, Row
from statefilm.evaluation.speed.timing import Protocol, interleave, synchronizer
from statefilm.pipelines import HTHPipeline, seed_generators
from statefilm.pipelines.media import save_mp4, save_png

PROMPT = "a red circle"
STAGES = ("text", "denoise", "decode", "save")


def measure_generation(
    pipe: HTHPipeline,
    *,
    batch_sizes: Iterable[int],
    protocol: Protocol,
    steps: int | None = None,
    video: bool = True,
    name: str = "model",
) -> Report:
    """Time images, and clips of the model's own length, at each batch size.

    Args:
        batch_sizes: samples made at once.
        steps: of denoising; the model's own number when None.
        video: also clips.
        name: of the model, for the report.
    """
    config, device = pipe.config, pipe.device
    protocol = replace(protocol, min_seconds=0)  # one call is a turn
    steps = config.default_steps if steps is None else steps
    kinds = {"image": 1} | ({"video": config.default_num_frames} if video else {})
    weights = {
        part: sum(p.numel() * p.element_size() for p in module.parameters())
        for part, module in pipe.components.items()
        if isinstance(module, nn.Module)
    }
    rows: list[Row] = []
    left_out: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, frames in kinds.items():
            height, width = pipe.default_size(frames)
            jobs = {
                f"{kind} x {batch}": _Job(pipe, batch, steps, frames, Path(folder), protocol)
                for batch in sorted(set(batch_sizes))
            }
            if protocol.expired:
                left_out.append({"kind": kind, "why": "the time was used up"})
                continue
            timings, failures = interleave(jobs, protocol, synchronizer(device))
            left_out += [{"kind": label, "why": why} for label, why in failures.items()]
            for label, timing in timings.items():
                job = jobs[label]
                rows.append(
                    {
                        "kind": kind,
                        "label": label,
                        "model": name,
                        "batch": job.batch,
                        "steps": steps,
                        "frames": frames,
                        "height": height,
                        "width": width,
                        "guidance_scale": pipe.default_guidance(frames),
                        "seconds": timing.median,
                        "rounds": list(timing.seconds),
                        "spread": timing.spread,
                        "seconds_per_sample": timing.median / job.batch,
                        "parts": job.stages(),
                        "weight_bytes": sum(weights.values()),
                        "peak_bytes": peak_bytes(job.single_step, device),
                    }
                )
                protocol.note(f"{label}: {timing.median:.3g} s")
            _add_ratios([row for row in rows if row["kind"] == kind])
    dtype = pipe.transformer.dtype
    return Report(
        bench="generate",
        machine=machine.describe(device, {dtype: machine.measure_rates(device, dtype)}),
        settings={
            "model": name,
            "size": f"{config.default_width}x{config.default_height}",
            "frames": list(kinds.values()),
            "guidance_scale": [pipe.default_guidance(frames) for frames in kinds.values()],
            "dtype": machine.name_of(dtype),
            "rounds": protocol.rounds,
        },
        rows=rows,
        left_out=left_out,
        summary={"weight_bytes": weights},
    )


@dataclass
class _Job:
    """One command's work for a batch; each call adds the seconds of its stages to `found`."""

    pipe: HTHPipeline
    batch: int
    steps: int
    frames: int
    folder: Path
    protocol: Protocol
    found: list[dict[str, float]] = field(default_factory=list)

    def __call__(self) -> None:
        self.found.append(self._make(self.steps))

    def single_step(self) -> None:
        """The same with one step, which holds as much memory as many do."""
        self._make(1)

    def stages(self) -> dict[str, float]:
        """Median seconds of each stage over the calls that counted, the last ones."""
        counted = self.found[-self.protocol.rounds :]
        return {stage: statistics.median(found[stage] for found in counted) for stage in STAGES}

    @torch.no_grad()
    def _make(self, steps: int) -> dict[str, float]:
        marks = [self._now()]
        prompt, negative = (self.pipe.encode_prompt([text] * self.batch) for text in (PROMPT, ""))
        marks.append(self._now())
        output: Any = self.pipe(
            prompt_embeds=prompt[0],
            prompt_attention_mask=prompt[1],
            negative_prompt_embeds=negative[0],
            negative_prompt_attention_mask=negative[1],
            num_frames=self.frames,
            num_inference_steps=steps,
            generator=seed_generators(0, self.batch),
            output_type="latent",
        )
        marks.append(self._now())
        clips: Any = self.pipe.decode(output.frames)
        marks.append(self._now())
        for index, clip in enumerate(clips):
            if self.frames == 1:
                save_png(clip[0], self.folder / f"{index}.png", force=True)
            else:
                fps = self.pipe.config.default_fps
                save_mp4(clip, self.folder / f"{index}.mp4", fps, force=True)
        marks.append(self._now())
        seconds = (end - start for start, end in pairwise(marks))
        return dict(zip(STAGES, seconds, strict=True))

    def _now(self) -> float:
        synchronizer(self.pipe.device)()
        return self.protocol.clock()


def _add_ratios(rows: list[Row]) -> None:
    """Time a sample, over that of the first batch size."""
    for row in rows:
        row["ratio"] = row["seconds_per_sample"] / rows[0]["seconds_per_sample"]
