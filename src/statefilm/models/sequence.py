"""What stands in a block's sequence beside the tokens: text before them, registers among them.

Legend: B batch, L tokens, D width, S text tokens, P slots of the text, R registers, E = P + R.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from statefilm.models.blocks import KeysValues


class ReadText(NamedTuple):
    """What a model reads of a text, which depends on the text alone.

    Attributes:
        keys_values: of the cross-attention of each block; none where blocks have none.
        states: [B, S, D], the text at the width of the tokens; None without a text prefix.
    """

    keys_values: list[KeysValues]
    states: Tensor | None


class SequenceExtras(nn.Module):
    """Tokens beside those of the grid, which pass all blocks with them and are then dropped.

    The text fills `text_slots` places before the tokens, so that a scan reads it first (in-context
    conditioning, arXiv 2212.09748, section 3.2, and for state spaces arXiv 2402.05608). A learnt
    token fills the places that the text leaves, so that a scan, which counts its steps, does not
    depend on how far a batch pads its texts; what goes beyond the slots is not read. Registers
    stand among the tokens at even distances (arXiv 2405.14858).

    Args:
        dim, text_dim: widths of tokens and text states.
        text_slots: P; 0 keeps the text out.
        registers: R learnt tokens.
    """

    def __init__(self, dim: int, text_dim: int, text_slots: int, registers: int) -> None:
        super().__init__()
        self.text_slots, self.num_registers = text_slots, registers
        if text_slots:
            self.text_in = nn.Linear(text_dim, dim)
            self.no_text = nn.Parameter(0.02 * torch.randn(dim))
        if registers:
            self.registers = nn.Parameter(0.02 * torch.randn(registers, dim))

    def forward(self, batch: int, states_BSD: Tensor | None, mask_BS: Tensor | None) -> Tensor:
        """The extras [B, E, D] that a generation starts from: text, then registers.

        Args:
            states_BSD: the text through `text_in`; None without slots for it.
            mask_BS: true where there is text; None is everywhere.
        """
        parts = []
        if states_BSD is not None:
            states = states_BSD[:, : self.text_slots]
            if mask_BS is not None:
                mask = mask_BS[:, : self.text_slots, None]
                states = torch.where(mask, states, self.no_text.to(states.dtype))
            left = self.no_text.to(states.dtype).expand(batch, self.text_slots, -1)
            parts.append(torch.cat([states, left[:, states.shape[1] :]], dim=1))
        if self.num_registers:
            parts.append(self.registers.expand(batch, -1, -1))
        return torch.cat(parts, dim=1)

    def join(self, tokens_BLD: Tensor, extras_BED: Tensor) -> Tensor:
        """Tokens and extras as one sequence [B, P + L + R, D]."""
        text, registers = extras_BED.split([self.text_slots, self.num_registers], dim=1)
        parts = [text]
        for index, stretch in enumerate(tokens_BLD.split(self._stretches(tokens_BLD.shape[1]), 1)):
            parts += [stretch, registers[:, index : index + 1]]
        return torch.cat(parts, dim=1)

    def part(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens [B, L, D] and extras [B, E, D] of a sequence, as `join` takes them."""
        length = sequence.shape[1] - self.text_slots - self.num_registers
        sizes = [self.text_slots]
        for stretch in self._stretches(length):
            sizes += [stretch, 1]
        text, *parts = sequence.split(sizes[: 2 + 2 * self.num_registers], dim=1)
        return torch.cat(parts[::2], dim=1), torch.cat([text, *parts[1::2]], dim=1)

    def positions(self, positions_L3: Tensor) -> Tensor:
        """(t, h, w) of a whole sequence, [P + L + R, 3]: the extras stand at the origin."""
        extras = positions_L3.new_zeros(1, self.text_slots + self.num_registers, 3)
        return self.join(positions_L3[None], extras)[0]

    def _stretches(self, length: int) -> list[int]:
        """How many tokens stand before, between and after the registers; their sum is length."""
        count = self.num_registers + 1
        return [length * (i + 1) // count - length * i // count for i in range(count)]
