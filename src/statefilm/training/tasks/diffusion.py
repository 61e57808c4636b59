"""What the tasks of all diffusion models share: loss, errors, saving, samples, and text."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel
from transformers.utils import logging as transformers_logging

from statefilm.errors import UsageError
from statefilm.models.text import (
    build_text_encoder,
    build_word_tokenizer,
    encode_prompts,
    load_text_encoder,
)
from statefilm.models.vae import encode_frames
from statefilm.pipelines import HTHPipeline, VideoDiffusionPipeline, load_pipeline, resolve_model
from statefilm.pipelines.media import make_grid, save_mp4, save_png
from statefilm.training.batches import Batch
from statefilm.training.objectives import Draw, Objective
from statefilm.training.recipe import Samples, TextSource
from statefilm.training.sources import Size, Source
from statefilm.training.streams import Stream, Timesteps
from statefilm.training.tasks.task import Task

__all__ = ["DiffusionDraw", "DiffusionTask", "TextStates", "load_part"]

logger = logging.getLogger(__name__)

# Distinct mixers, lengths and widths are distinct graphs of the one block class.
COMPILED_GRAPHS = 64
MANY_UNKNOWN = 0.05  # of the words in captions


class DiffusionTask(Task):
    """A denoiser learns to predict what an objective asks of noisy samples.

    Attributes:
        denoiser: called as denoiser(noisy, timestep, **conditions).
        text: its captions' encoder, where it reads text; learns along if it is in `modules`.
        vae: between frames and latents; None for pixels.
        objective: how samples become noisy and what is to be predicted.
        pipeline: of the modules as they are now; what a run saves.
    """

    output = "pipeline"
    device: torch.device
    denoiser: ModelMixin
    text: TextStates | None
    vae: ModelMixin | None = None
    objective: Objective
    pipeline: HTHPipeline | VideoDiffusionPipeline

    @property
    def vocabulary(self) -> Sequence[str] | None:  # type: ignore[override]
        return None if self.text is None else self.text.vocabulary

    def loss(self, batch: Batch) -> Tensor:
        prediction, target = self._predict(batch)
        return self.objective.loss(prediction, target, batch.level)

    @torch.no_grad()
    def errors(self, batch: Batch) -> Tensor:
        """Mean squared error [B] of what is predicted for each sample, unweighted."""
        return self.objective.errors(*self._predict(batch))

    def compile(self) -> None:
        torch._dynamo.config.recompile_limit = COMPILED_GRAPHS
        kinds = self.denoiser._repeated_blocks
        for module in self.denoiser.modules():
            if type(module).__name__ in kinds:
                module.compile(dynamic=False)
        if self.text is not None:
            self.text.pad_alike()

    def save(self, folder: Path) -> None:
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        self.pipeline.save_pretrained(folder)
        if bars:
            transformers_logging.enable_progress_bar()

    def sample(self, folder: Path, step: int) -> None:
        clips = self._clips()
        if not clips:
            return
        grids = [make_grid(moment) for moment in zip(*clips, strict=True)]
        if len(grids) == 1:
            save_png(grids[0], folder / f"step-{step:08d}.png", force=True)
        else:
            fps = self.pipeline.config.default_fps
            save_mp4(grids, folder / f"step-{step:08d}.mp4", fps, force=True)

    @abstractmethod
    def _clips(self) -> Sequence[Sequence[Image]]:
        """Clips of one length, one frame for images, as the recipe's `samples` wants them."""

    def _prompts(self, wanted: Samples) -> list[str]:
        """The prompts of the samples: those that are wanted, or captions of a user's data."""
        if wanted.prompts:
            return list(wanted.prompts)
        captions = list(dict.fromkeys(c for one in self.batches.sources for c in one.captions))
        return captions[:: max(1, len(captions) // wanted.count)][: wanted.count]

    def _conditions(self, batch: Batch) -> dict[str, Tensor]:
        """What the denoiser is given beside noisy samples and time."""
        return {} if self.text is None else self.text(batch)

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The prediction for a batch, and its target."""
        conditions = self._conditions(batch)
        with torch.no_grad():
            clean = batch.frames if batch.encoded else encode_frames(self.vae, batch.frames)
            noisy = self.objective.corrupt(clean, batch.noise, batch.level)
            target = self.objective.target(clean, batch.noise, batch.level)
        time = self.objective.timestep(batch.level)
        return self.denoiser(noisy, time, **conditions).sample, target


@dataclass(frozen=True)
class DiffusionDraw:
    """`DrawNoise` of a diffusion model: latents of the frames' size, noise levels of the stream."""

    objective: Objective
    shapes: Mapping[Size, tuple[int, ...]]
    shifts: Mapping[Size, float]
    timesteps: tuple[Timesteps | None, ...]

    @classmethod
    def of(
        cls,
        objective: Objective,
        shapes: Mapping[Size, tuple[int, ...]],
        streams: Sequence[Stream],
        shifts: Mapping[Size, float] | None = None,
    ) -> DiffusionDraw:
        """The draw for some streams.

        Args:
            shapes: (C, t, h, w) for each size of frames.
            shifts: of the noise levels for each size of frames; None is 1.
        """
        return cls(objective, shapes, shifts or {}, tuple(stream.timesteps for stream in streams))

    def __call__(self, number: int, size: Size, generators: list[torch.Generator]) -> Draw:
        times, shift = self.timesteps[number], self.shifts.get(size, 1.0)
        return self.objective.draw(self.shapes[size], generators, times, shift)


class TextStates:
    """Captions as a denoiser's conditions.

    Args:
        source: the recipe's section.
        sources: of the streams; a fresh tokenizer knows the words of their captions.
        width: of the states that the denoiser reads.
        device: of the encoder.
        vocabulary: what a fresh tokenizer knows in place of the sources' words.

    Raises:
        UsageError: the encoder's states have another width, or its folder is not usable.
    """

    def __init__(
        self,
        source: TextSource,
        sources: Sequence[Source],
        width: int,
        device: torch.device,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        self.source, self.device, self._padding = source, device, 0
        self.vocabulary = None
        if source.init_from is None:
            self.vocabulary = vocabulary or _common_words(sources, source.vocabulary_size)
        self.tokenizer, encoder = _build_text(source, self.vocabulary or ())
        if width != encoder.config.d_model:
            states = encoder.config.d_model
            raise UsageError(f"the model reads text of width {width}, the encoder has {states}")
        self.encoder = encoder.to(device).requires_grad_(source.train).eval()
        self._report(sources)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """States [B, S, D] of a batch's captions and their mask [B, S]; those that it brings."""
        states, mask = batch.states, batch.mask
        if states is None or mask is None:
            states, mask = self._encode(batch.captions)
        missing = max(0, self._padding - states.shape[1])
        return {
            "encoder_hidden_states": F.pad(states, (0, 0, 0, missing)),
            "encoder_attention_mask": F.pad(mask, (0, missing)),
        }

    def _encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        length = self.source.max_length
        with torch.set_grad_enabled(self.source.train and torch.is_grad_enabled()):
            return encode_prompts(
                self.tokenizer, self.encoder, captions, length, self.device, warn=False
            )

    def _report(self, sources: Sequence[Source]) -> None:
        """Say how many captions of the data are cut or unknown, and where there are none."""
        length = self.source.max_length
        for number, source in enumerate(sources):
            if not source.in_epochs:
                continue
            tokens = missed = cut = 0
            for text in source.captions:
                ids = self.tokenizer(text, verbose=False)["input_ids"]
                tokens += len(ids)
                missed += ids.count(self.tokenizer.unk_token_id)
                cut += len(ids) > length
            if missed > MANY_UNKNOWN * tokens:
                logger.warning(
                    "data.%d: %.0f%% of the words in captions are unknown to the text encoder",
                    *(number, 100 * missed / tokens),
                )
            if cut:
                logger.warning(
                    "data.%d: %d of %d captions are longer than text.max_length %d and are cut",
                    *(number, cut, len(source.captions), length),
                )
            if not source.captions:
                logger.warning("data.%d has no captions: what is made cannot be asked for", number)

    def pad_alike(self) -> None:
        """Pad to one length, so that compiled graphs do not depend on the longest of a batch."""
        self._padding = -(-self.source.max_length // 8) * 8


def load_part(folder: str, name: str) -> Any:
    """A component of a saved pipeline or of a run, in float32 on the CPU.

    Raises:
        UsageError: the pipeline has no such component; and as `load_pipeline`.
    """
    pipeline = load_pipeline(folder, "float32", "cpu")
    part = pipeline.components.get(name)
    if part is None:
        raise UsageError(f"{folder} holds a {type(pipeline).__name__}, which has no {name}")
    return part


def _build_text(
    source: TextSource, vocabulary: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    if source.init_from is not None:
        folder = resolve_model(source.init_from)
        if not (folder / "model_index.json").is_file():
            return load_text_encoder(folder)
        tokenizer, encoder = (load_part(source.init_from, n) for n in ("tokenizer", "text_encoder"))
        return tokenizer, encoder
    assert source.preset is not None
    tokenizer = build_word_tokenizer(vocabulary, max_length=source.max_length)
    overrides = {"vocab_size": len(tokenizer), **source.overrides}
    return tokenizer, build_text_encoder(source.preset, **overrides)


def _common_words(sources: Sequence[Source], count: int) -> list[str]:
    """Of several sources the most frequent words of each."""
    ranks = zip_longest(*(one.words for one in sources), fillvalue="")
    return list(dict.fromkeys(word for rank in ranks for word in rank if word))[:count]
