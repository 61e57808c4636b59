"""The task of a text encoder: to say at each word of a caption what is told of its thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mode

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.data.world.captions import parse_spans, tokenize
from statefilm.data.world.scene import (
    BACKGROUNDS,
    COLORS,
    INVERSE,
    MAX_COUNT,
    MOTIONS,
    SHAPES,
    SIZES,
    Description,
)
from statefilm.errors import UsageError
from statefilm.models.text import encode_prompts
from statefilm.training.batches import Batch, batches_of
from statefilm.training.objectives import Draw
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import TextRecipe
from statefilm.training.sources import Size, Source
from statefilm.training.tasks.task import Task
from statefilm.training.tasks.text_states import OUTPUT, build_text, common_words, without_bars

__all__ = ["PROPERTIES", "TextTask", "properties_of"]

# What is read at a word of a thing; None, the first, is what a caption leaves open. `relation` is
# that of the thing to the other one.
PROPERTIES: dict[str, tuple[str | int | None, ...]] = {
    "shape": SHAPES,
    "count": tuple(range(1, MAX_COUNT + 1)),
    "color": (None, *COLORS),
    "size": (None, *SIZES),
    "motion": (None, *MOTIONS),
    "then": (None, *MOTIONS),
    "becomes": (None, *COLORS),
    "relation": (None, *INVERSE),
    "background": (None, *BACKGROUNDS),
}
UNTOLD = -100  # of words that tell of no thing; `cross_entropy` leaves them out
SHOWN = 8


class TextTask(Task):
    """Token classification of captions by what they say: the properties of each word's thing.

    An encoder that learns along with a denoiser alone soon knows which words a caption has, and
    hardly which of them belong together: that a wrong pair of colour and shape looks worse is seen
    only once both are drawn well. Here the pairs are asked for, word by word, with nothing drawn.
    The linear heads that answer are not kept.
    """

    output = OUTPUT

    def __init__(
        self,
        recipe: TextRecipe,
        device: torch.device,
        ranks: Ranks,
        sources: Sequence[Source],
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        torch.manual_seed(seed_of(recipe.seed, "text"))
        self.recipe, self.device = recipe, device
        source = recipe.text
        if source.init_from is None:
            self.vocabulary = vocabulary or common_words(sources, source.vocabulary_size)
        self.tokenizer, encoder = build_text(source, self.vocabulary or ())
        self.encoder = encoder.to(device)
        width = encoder.config.d_model
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(of)) for name, of in PROPERTIES.items()}
        )
        self.modules = nn.ModuleDict({"text_encoder": self.encoder, "heads": self.heads.to(device)})
        self.batches, self.held_out = batches_of(recipe, sources, lambda _: _nothing, ranks)
        self.modules.train()

    def loss(self, batch: Batch) -> Tensor:
        """Mean over all properties of the cross-entropy at the words that tell of a thing."""
        answers = self._answers(batch.captions)
        truth = _truth(batch.captions, answers[0].shape[1]).to(self.device)
        losses = [
            F.cross_entropy(answer.flatten(0, 1), wanted.flatten(), ignore_index=UNTOLD)
            for answer, wanted in zip(answers, truth, strict=True)
        ]
        return torch.stack(losses).mean()

    def compile(self) -> None:
        raise UsageError("compile: blocks is for denoisers; a text encoder trains with none")

    def save(self, folder: Path) -> None:
        """Write tokenizer and encoder, as `text.init_from` of a denoiser's recipe takes them."""
        with without_bars():
            self.tokenizer.save_pretrained(folder / "tokenizer")
            self.encoder.save_pretrained(folder / "text_encoder")

    def sample(self, folder: Path, step: int) -> None:
        """Some captions, and what is read at the words of each thing in them."""
        captions = self.batches.batch(0, 0).captions[:SHOWN]
        best = [answer.argmax(-1).tolist() for answer in self._answers(captions)]
        lines = []
        for row, caption in enumerate(captions):
            words, things = tokenize(caption), []
            for span in parse_spans(caption)[1]:
                told = {
                    name: values[mode(found[row][span])]
                    for (name, values), found in zip(PROPERTIES.items(), best, strict=True)
                    if found[row][span]  # the caption may be cut before
                }
                things.append({"words": " ".join(words[span]), **told})
            lines.append(json.dumps({"caption": caption, "read": things}) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"step-{step:08d}.jsonl").write_text("".join(lines), "utf-8")

    def _answers(self, captions: list[str]) -> list[Tensor]:
        """Logits [B, S, values] of each property, float32."""
        length = self.recipe.text.max_length
        states, _ = encode_prompts(
            self.tokenizer, self.encoder, captions, length, self.device, warn=False
        )
        # As a denoiser does before it reads them.
        states = F.rms_norm(states, states.shape[-1:])
        return [self.heads[name](states).float() for name in PROPERTIES]


def properties_of(description: Description) -> list[dict[str, str | int | None]]:
    """What a caption says of the thing or things of each of its groups: names of `PROPERTIES`."""
    relation = description.relation
    relations = (relation, None if relation is None else INVERSE[relation])
    told: list[dict[str, str | int | None]] = []
    for number, group in enumerate(description.groups):
        motion = (*group.motion, None, None)
        told.append(
            {
                "shape": group.shape,
                "count": group.count,
                "color": group.color,
                "size": group.size,
                "motion": motion[0],
                "then": motion[1],
                "becomes": group.becomes,
                "relation": None if relation is None else relations[number],
                "background": description.background,
            }
        )
    return told


def _truth(captions: Sequence[str], length: int) -> Tensor:
    """Numbers of the right values [P, B, S] at each word, `UNTOLD` at those that tell of nothing.

    Raises:
        CaptionError: a caption is not the world's.
    """
    truth = torch.full((len(PROPERTIES), len(captions), length), UNTOLD)
    for row, caption in enumerate(captions):
        description, spans = parse_spans(caption)
        for span, told in zip(spans, properties_of(description), strict=True):
            numbers = [values.index(told[name]) for name, values in PROPERTIES.items()]
            truth[:, row, span] = torch.tensor(numbers)[:, None]
    return truth


def _nothing(number: int, size: Size, generators: list[torch.Generator]) -> Draw:
    """`DrawNoise` of what needs no noise and is never hidden."""
    zeros = torch.zeros(len(generators))
    return Draw(zeros, zeros, zeros.bool())
