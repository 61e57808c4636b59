"""S4D as a convolution with its impulse response, by FFT: any device, any length.

The op saves u and the kernel, which has no batch axis, and transforms both again backward. Samples
are handled a slice of the batch at a time, so that spectra never exist for all of it at once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype
from statefilm.ops.s4d.kernel import budget, s4d_kernel


def s4d_convolution(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    reverse: bool = False,
    discretisation: str = "zoh",
) -> Tensor:
    """See `s4d`."""
    acc, length = accumulation_dtype(u.dtype), u.shape[1]
    kernel = s4d_kernel(dt.to(acc), A.to(acc), C.to(acc), length, discretisation)
    if D is not None:
        # The skip is what the kernel does at lag 0.
        kernel = kernel + F.pad(D.to(acc)[None], (0, 0, 0, length - 1))
    return long_convolution(u, kernel, reverse)


class _Transform:
    """FFTs along the length with room for a whole kernel beyond the end.

    Args:
        kernel: [length, dim].
        reverse: whether the kernel looks at later tokens.
    """

    def __init__(self, kernel: Tensor, reverse: bool) -> None:
        self.length, dim = kernel.shape
        self.size, self.dtype = 2 * smooth(self.length), kernel.dtype
        self.rows = max(1, budget(kernel.device) // (self.size * dim))
        spectrum = torch.fft.rfft(kernel, n=self.size, dim=0)
        self.kernel = spectrum.conj().resolve_conj() if reverse else spectrum

    def to(self, u: Tensor) -> Tensor:
        """The spectrum of [batch, length, dim]."""
        return torch.fft.rfft(u.to(self.dtype), n=self.size, dim=1)

    def back(self, spectrum: Tensor) -> Tensor:
        """The sequence of a spectrum, without the room beyond its end."""
        return torch.fft.irfft(spectrum, n=self.size, dim=-2)[..., : self.length, :]


@torch.library.custom_op("statefilm::long_convolution", mutates_args=())
def long_convolution(u: Tensor, kernel: Tensor, reverse: bool) -> Tensor:
    """Convolve each channel of u along the length with a kernel of its own, causally.

    Args:
        u: [batch, length, dim].
        kernel: [length, dim], float32 or float64, which is the dtype of the computation.
        reverse: let the kernel reach to later tokens in place of earlier ones.

    Returns:
        y with the shape and dtype of u.
    """
    transform = _Transform(kernel, reverse)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    for u_part, y_part in zip(u.split(transform.rows), y.split(transform.rows), strict=True):
        y_part.copy_(transform.back(transform.to(u_part).mul_(transform.kernel)))
    return y


@torch.library.custom_op("statefilm::long_convolution_backward", mutates_args=())
def _backward(dy: Tensor, u: Tensor, kernel: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients of u and of the kernel: correlations of dy with the other."""
    transform = _Transform(kernel, reverse)
    du = torch.empty_like(u, memory_format=torch.contiguous_format)
    d_spectrum = torch.zeros_like(transform.kernel)
    mirrored = transform.kernel.conj().resolve_conj()
    parts = (t.split(transform.rows) for t in (dy, u, du))
    for dy_part, u_part, du_part in zip(*parts, strict=True):
        dy_spectrum = transform.to(dy_part)
        d_spectrum += (transform.to(u_part).conj() * dy_spectrum).sum(0)
        du_part.copy_(transform.back(dy_spectrum.mul_(mirrored)))
    return du, transform.back(d_spectrum.conj() if reverse else d_spectrum).contiguous()


@long_convolution.register_fake
def _(u: Tensor, kernel: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(dy: Tensor, u: Tensor, kernel: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u, memory_format=torch.contiguous_format), torch.empty_like(kernel)


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
    return *_backward(dy, *ctx.saved_tensors, ctx.reverse), None


long_convolution.register_autograd(_differentiate, setup_context=_remember)


def smooth(number: int) -> int:
    """The next number from there on with no prime factor above 5: FFTs of such sizes are fast."""
    while 60**20 % number:  # 60 = 2 * 2 * 3 * 5
        number += 1
    return number
