"""selective_scan in PyTorch alone: any device, any length, no state of each token ever stored.

Work is cut into windows: some rows of the batch and a chunk of the walk. In a window all decays and
inputs are formed at once; a loop over its steps, one multiply-add each, turns them into states. No
quotient and no logarithm of decays is taken, so nothing overflows or cancels. The backward makes
the states of a window again from the one that enters it.

Legend: R rows of a window, Q its steps in the order of the walk, N state size, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from statefilm.ops.chunking import MIN_LOG_DECAY
from statefilm.ops.selective_scan.core import Gradients, empty_like, make_core, new_states

CHUNK = 64
# Entries of a window's states: 2 MB stay in a core's cache; GPUs want large launches.
ENTRIES = {"cpu": 2**19}
ENTRIES_ELSEWHERE = 2**24


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of the batch and positions of the sequence; `index` counts the chunks of the walk."""

    rows: slice
    positions: slice
    index: int
    reverse: bool

    def cut(self, x_BLX: Tensor, dtype: torch.dtype) -> Tensor:
        """The window's part of a tensor as [Q, R, *]."""
        x_QRX = x_BLX[self.rows, self.positions].transpose(0, 1)
        return (x_QRX.flip(0) if self.reverse else x_QRX).to(dtype).contiguous()

    def put(self, out_BLX: Tensor, value_QRX: Tensor) -> None:
        """Write where `cut` reads."""
        value_QRX = value_QRX.flip(0) if self.reverse else value_QRX
        out_BLX[self.rows, self.positions] = value_QRX.transpose(0, 1)

    def entering(self, kept: Tensor) -> Tensor | None:
        """The state [R, N, D] that enters, None for the zero at the start of the walk."""
        return kept[self.rows, self.index - 1] if self.index else None


def walks(u: Tensor, state: int, reverse: bool) -> list[list[Window]]:
    """For each set of rows its windows in the order of the walk."""
    batch, length, dim = u.shape
    entries = ENTRIES.get(u.device.type, ENTRIES_ELSEWHERE)
    step = max(1, entries // (min(CHUNK, length) * state * dim))
    spans = [(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]
    if reverse:
        spans = [(length - stop, length - start) for start, stop in spans]
    return [
        [Window(slice(row, row + step), slice(*span), i, reverse) for i, span in enumerate(spans)]
        for row in range(0, batch, step)
    ]


class _Steps:
    """What a window reads, and from it the states and their gradients."""

    def __init__(
        self, window: Window, u: Tensor, dt: Tensor, A_ND: Tensor, B: Tensor, C: Tensor
    ) -> None:
        self.u_QRD, self.dt_QRD, self.B_QRN, self.C_QRN = (
            window.cut(t, dt.dtype) for t in (u, dt, B, C)
        )
        self.input_QRD = self.dt_QRD * self.u_QRD
        # Bounded, as CPUs are slow with denormal numbers.
        self.decay_QRND = (self.dt_QRD[:, :, None] * A_ND).clamp_(min=MIN_LOG_DECAY).exp_()

    def states(self, entering_RND: Tensor | None) -> Tensor:
        """The state after each step, [Q, R, N, D]."""
        states_QRND = self.B_QRN[..., None] * self.input_QRD[:, :, None]
        before = entering_RND
        for state, decay in zip(states_QRND, self.decay_QRND, strict=True):
            if before is not None:
                state.addcmul_(decay, before)
            before = state
        return states_QRND

    def state_gradients(self, dy_QRD: Tensor, from_later: Tensor | None) -> Tensor:
        """The gradient of each of these states, through its own output and all later ones."""
        gradients_QRND = self.C_QRN[..., None] * dy_QRD[:, :, None]
        if from_later is not None:
            gradients_QRND[-1] += from_later
        steps = [*zip(gradients_QRND, self.decay_QRND, strict=True)]
        for i in reversed(range(len(steps) - 1)):
            gradient, decay = steps[i + 1]
            steps[i][0].addcmul_(decay, gradient)
        return gradients_QRND


def forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """See `core.make_core`."""
    A_ND = A.T.contiguous()
    y, kept = empty_like(u), new_states(u, dt, A.shape[1], CHUNK)
    for walk in walks(u, A.shape[1], reverse):
        for window in walk:
            steps = _Steps(window, u, dt, A_ND, B, C)
            states_QRND = steps.states(window.entering(kept))
            if window.index < kept.shape[1]:
                kept[window.rows, window.index] = states_QRND[-1]
            y_QRD = (steps.C_QRN[..., None, :] @ states_QRND).squeeze(2)
            window.put(y, y_QRD if D is None else y_QRD.addcmul_(D, steps.u_QRD))
    return y, kept


def backward(
    dy: Tensor,
    kept: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
) -> Gradients:
    """See `core.make_core`."""
    A_ND = A.T.contiguous()
    du, ddt, dB, dC = (empty_like(t) for t in (u, dt, B, C))
    dA_ND, dD = torch.zeros_like(A_ND), None if D is None else torch.zeros_like(D)
    for walk in walks(u, A.shape[1], reverse):
        from_later = None
        for window in reversed(walk):
            steps, dy_QRD = _Steps(window, u, dt, A_ND, B, C), window.cut(dy, dt.dtype)
            entering = window.entering(kept)
            states_QRND = steps.states(entering)
            window.put(dC, (states_QRND @ dy_QRD[..., None]).squeeze(-1))
            gradients_QRND = steps.state_gradients(dy_QRD, from_later)
            window.put(dB, (gradients_QRND @ steps.input_QRD[..., None]).squeeze(-1))
            d_input_QRD = (steps.B_QRN[..., None, :] @ gradients_QRND).squeeze(2)
            # What decayed into each step, then with it the gradient of the exponent dt A.
            d_log_QRND = gradients_QRND.mul_(steps.decay_QRND)
            from_later = d_log_QRND[0].clone()
            d_log_QRND[1:].mul_(states_QRND[:-1])
            d_log_QRND[0].mul_(0.0 if entering is None else entering)
            ddt_QRD = (d_log_QRND * A_ND).sum(2)
            dA_ND += d_log_QRND.mul_(steps.dt_QRD[:, :, None]).sum((0, 1))
            window.put(ddt, ddt_QRD.addcmul_(d_input_QRD, steps.u_QRD))
            du_QRD = d_input_QRD.mul_(steps.dt_QRD)
            if D is not None and dD is not None:
                du_QRD.addcmul_(D, dy_QRD)
                dD += (dy_QRD * steps.u_QRD).sum((0, 1))
            window.put(du, du_QRD)
    return du, ddt, dA_ND.T.contiguous(), dB, dC, dD


selective_scan_chunked = make_core("chunked", CHUNK, forward, backward)
