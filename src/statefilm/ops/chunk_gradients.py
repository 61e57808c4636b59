"""The gradients of one direction of a segment, from those of its matrices and states.

Legend: B batch, S chunks of the segment, Q positions of a chunk, H heads, G groups, P head size,
N state size, R = H / G * P.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.chunking import Direction, by_heads
from statefilm.ops.dispatch import accumulation_dtype


class DirectionGradients:
    """What a direction of a segment learns; readers and sources are positions.

    Args:
        way: the direction.
        d_scores: [B, S, G, Q, Q], gradients of its scores, zero outside its triangle.
        d_log: [B, S, H, Q, Q], those of its matrix times the matrix.
    """

    def __init__(self, way: Direction, d_scores: Tensor, d_log: Tensor) -> None:
        self.way = way
        self.dC, self.dB = d_scores @ way.B, d_scores.mT @ way.C
        # What each reader takes and each source gives, in the chunk and beyond, [B, S, Q, H].
        self.taken, self.given = d_log.sum(-1).transpose(2, 3), d_log.sum(-2).transpose(2, 3)
        self.taken_from_state = self.given_to_state = torch.zeros_like(self.taken)
        self.through = self.taken.new_zeros(())

    def through_states(
        self, x_BSQHP: Tensor, dy_BSQHP: Tensor, state_BSGNR: Tensor, gradient_BSGNR: Tensor
    ) -> Tensor:
        """Add what passes through the state that enters a chunk and the gradient of that it leaves.

        Returns:
            This part of the gradient of x, [B, S, Q, H, P].
        """
        way, heads = self.way, x_BSQHP.shape[3]
        emitted, reading = way.emitted(x_BSQHP), way.reading(dy_BSQHP)
        self.dC = self.dC + reading @ state_BSGNR.mT
        self.dB = self.dB + emitted @ gradient_BSGNR.mT
        wanted = way.B @ gradient_BSGNR
        self.taken_from_state = _sum(by_heads(reading, heads), by_heads(way.C @ state_BSGNR, heads))
        self.given_to_state = _sum(by_heads(emitted, heads), by_heads(wanted, heads))
        passed = _sum(by_heads(state_BSGNR, heads), by_heads(gradient_BSGNR, heads)).sum(2)
        self.through = (way.total * passed)[:, :, None]
        return by_heads(wanted, heads) * way.emit.to(x_BSQHP.dtype)[..., None]

    def of_steps(self) -> Tensor:
        """Gradient of the step sizes as weights of the sources, [B, S, Q, H]."""
        return (self.given + self.given_to_state) / self.way.dt

    def of_decays(self, *, lag: int, reverse: bool = False) -> Tensor:
        """Gradient of the log-decays, [B, S, Q, H].

        That of position t is the sum over all pairs, in the direction's sense, of a source before
        t and a reader at t or after it; with a lag of 1 the reader at t does not count, since it
        reads the state before t. Only what lies within one chunk is ever subtracted.
        """
        taken, given, beyond = (
            t.flip(2) if reverse else t
            for t in (self.taken + self.taken_from_state, self.given, self.given_to_state)
        )
        inside = F.pad(taken[:, :, lag:], (0, 0, 0, lag)) - given
        inside = inside.flip(2).cumsum(2).flip(2)
        outside = F.pad(beyond[:, :, :-1], (0, 0, 1, 0)).cumsum(2)
        gradient = inside + outside + self.through
        return gradient.flip(2) if reverse else gradient


def _sum(x_BSQHP: Tensor, y_BSQHP: Tensor) -> Tensor:
    """Inner products over P in float32 or wider."""
    acc = accumulation_dtype(x_BSQHP.dtype)
    return (x_BSQHP.to(acc) * y_BSQHP.to(acc)).sum(-1)
