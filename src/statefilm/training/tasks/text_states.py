"""The text encoder of what a run trains: built or loaded, and its captions' states."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
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
from statefilm.pipelines import load_pipeline, resolve_model
from statefilm.training.batches import Batch
from statefilm.training.recipe import TextEncoderSource, TextSource
from statefilm.training.sources import Source

__all__ = ["OUTPUT", "TextStates", "build_text", "common_words", "load_part", "without_bars"]

logger = logging.getLogger(__name__)

MANY_UNKNOWN = 0.05  # of the words in captions
OUTPUT = "text"  # in the run folder of a text encoder's own training


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
            self.vocabulary = vocabulary or common_words(sources, source.vocabulary_size)
        self.tokenizer, encoder = build_text(source, self.vocabulary or ())
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


def build_text(
    source: TextEncoderSource, vocabulary: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """A recipe's tokenizer and text encoder; a fresh tokenizer knows the words of `vocabulary`."""
    if source.init_from is not None:
        folder = resolve_model(source.init_from)
        if not (folder / "model_index.json").is_file():
            inner = folder / OUTPUT
            return load_text_encoder(inner if inner.is_dir() else folder)
        tokenizer, encoder = (load_part(source.init_from, n) for n in ("tokenizer", "text_encoder"))
        return tokenizer, encoder
    assert source.preset is not None
    tokenizer = build_word_tokenizer(vocabulary, max_length=source.max_length)
    overrides = {"vocab_size": len(tokenizer), **source.overrides}
    return tokenizer, build_text_encoder(source.preset, **overrides)


def common_words(sources: Sequence[Source], count: int) -> list[str]:
    """Of several sources the most frequent words of each."""
    ranks = zip_longest(*(one.words for one in sources), fillvalue="")
    return list(dict.fromkeys(word for rank in ranks for word in rank if word))[:count]


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of loading and saving inside."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
