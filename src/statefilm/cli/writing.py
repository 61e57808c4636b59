"""Finished frames to files with their provenance, single or on one sheet; previews on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statefilm.cli.console import Console

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from statefilm.cli.request import Request, Sample, Settings
    from statefilm.pipelines import LocalPipeline


class Writer:
    """Writes each sample as it comes, or with `--grid` all of them on one sheet at the end."""

    def __init__(
        self, request: Request, settings: Settings, run: Mapping[str, Any], console: Console
    ) -> None:
        self.request, self.settings, self.run, self.console = request, settings, run, console
        self._sheet: list[tuple[Sample, list[Image]]] = []

    def add(self, sample: Sample, clip: list[Image]) -> None:
        """Take one sample's frames."""
        if self.request.grid:
            self._sheet.append((sample, clip))
        else:
            self._save(sample.path, clip, [clip], self._provenance(sample))

    def finish(self) -> None:
        """Write the sheet, if there is one."""
        from statefilm.pipelines.media import make_grid

        if not self._sheet:
            return
        samples, clips = zip(*self._sheet, strict=True)
        sheet = [make_grid(cells) for cells in zip(*clips, strict=True)]
        cells = [
            {
                "prompt": s.prompt,
                "negative_prompt": s.negative_prompt,
                "seed": s.seed,
                **_given(label=s.label),
            }
            for s in samples
        ]
        meta = {**self._provenance(samples[0]), "grid": cells}
        self._save(samples[0].path, sheet, clips, meta)

    def _provenance(self, sample: Sample) -> dict[str, Any]:
        from statefilm.pipelines.provenance import make_provenance

        meta = make_provenance(
            prompt=sample.prompt,
            negative_prompt=sample.negative_prompt,
            seed=sample.seed,
            **self.run,
        )
        first = self.settings.first_frames
        meta |= _given(
            label=sample.label, window=self.settings.window, overlap=self.settings.overlap
        )
        if first is not None:
            meta |= {"first_frames": str(first.path), "first_frames_sha256": first.sha256}
        # Both may change the last bits, so that making the file again has to know.
        if self.request.batch_size > 1:
            meta["batch_size"] = self.request.batch_size
        if self.request.compile:
            meta["compile"] = True
        return meta

    def _save(
        self, path: Path, clip: list[Image], rows: Sequence[list[Image]], meta: Mapping[str, Any]
    ) -> None:
        """Write what is shown, and what its samples' frames are besides."""
        from statefilm.pipelines.media import make_strip, save_frames, save_mp4, save_png

        force = self.request.force
        if self.request.kind == "image":
            save_png(clip[0], path, meta, force=force)
        else:
            save_mp4(clip, path, self.settings.fps, meta, force=force)
        if self.request.save_frames:
            save_frames(clip, path.with_suffix(""), meta, force=force)
        if self.request.strip:
            save_png(
                make_strip(rows, self.request.strip), path.with_suffix(".png"), meta, force=force
            )
        self.console.result(path, **meta)


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


class Preview:
    """A step callback that keeps a picture of what the samples of a batch are becoming."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def __call__(
        self, pipe: LocalPipeline, step: int, timestep: Any, tensors: Mapping[str, torch.Tensor]
    ) -> None:
        """Called after each step; of a clip the middle frame is shown."""
        from statefilm.pipelines.media import make_grid, save_png

        if (step + 1) % self.every == 0:
            clips: Any = pipe.decode(tensors["denoised"])
            save_png(make_grid([clip[len(clip) // 2] for clip in clips]), self.path, force=True)
