"""The least an op must do: its operations and bytes, and the time below which it cannot fall.

Operations are counted two for a multiply-add, in the known form that needs the fewest; forms made
for matrix units spend more on purpose. Bytes are those of each input read once and each output
written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

FLOAT32 = 4  # bytes; dt and A stay float32 beside narrower tokens


@dataclass(frozen=True, slots=True)
class OpShape:
    """Sizes of one call of a token mixing op.

    Attributes:
        dim: width of the tokens: heads x head_dim.
        state_dim, groups: of the state-space ops only.

    Raises:
        ValueError: a size below 1, or sizes that do not divide.
    """

    length: int
    batch: int = 1
    dim: int = 1024
    head_dim: int = 64
    state_dim: int = 64
    groups: int = 1

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not a whole number >= 1")
        if self.dim % self.head_dim:
            raise ValueError(f"head_dim {self.head_dim} does not divide dim {self.dim}")
        if self.heads % self.groups:
            raise ValueError(f"groups {self.groups} does not divide the {self.heads} heads")

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.dim // self.head_dim

    @property
    def tokens(self) -> int:
        """Tokens of all sequences together."""
        return self.batch * self.length


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine was measured to do at best: FLOP/s of a large matrix product, and bytes/s
    of a large copy, read and written ones counted."""

    matmul: float
    copy: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations and bytes of one call."""

    flops: int
    bytes: int

    def floor(self, rates: Rates) -> float:
        """Seconds below which the call cannot fall: the longer of arithmetic and transport."""
        return max(self.flops / rates.matmul, self.bytes / rates.copy)


def cost(op: str, shape: OpShape, itemsize: int, *, backward: bool = False) -> Cost:
    """What `op` must do at least.

    Args:
        op: a name of `OPS`.
        itemsize: bytes of a number of the tokens.
        backward: also count the gradients of all inputs. They take two products for each of the
            forward pass; inputs and the output's gradient are read, the inputs' gradients written.
    """
    flops, read, written = OPS[op](shape, itemsize)
    if not backward:
        return Cost(flops, read + written)
    return Cost(3 * flops, (read + written) + (read + written + read))


class _Least(NamedTuple):
    flops: int
    read: int
    written: int


def _quasiseparable(shape: OpShape, itemsize: int) -> _Least:
    """As a recurrence, or for short sequences as one matrix.

    The recurrence takes each token into the state and out of it, N x P multiply-adds each, in both
    directions; the L x L matrix takes N for each entry and group, then one product with x.
    """
    tokens, inner = shape.tokens, shape.dim
    group_states = shape.groups * shape.state_dim
    recurrence = 2 * 2 * 2 * tokens * inner * shape.state_dim
    matrix = 2 * tokens * shape.length * (group_states + inner)
    x_and_D = tokens * (inner + shape.heads) * itemsize
    B_and_C = 2 * 2 * tokens * group_states * itemsize
    dt_and_A = (2 * tokens + 1) * shape.heads * FLOAT32
    return _Least(min(recurrence, matrix), x_and_D + B_and_C + dt_and_A, tokens * inner * itemsize)


def _sdpa(shape: OpShape, itemsize: int) -> _Least:
    """Scores and weighted sums of all pairs of tokens."""
    one = shape.tokens * shape.dim * itemsize
    return _Least(2 * 2 * shape.tokens * shape.length * shape.dim, 3 * one, one)


def _linear_attention(shape: OpShape, itemsize: int) -> _Least:
    """Keys times values, queries times that, and the normaliser."""
    one = shape.tokens * shape.dim * itemsize
    return _Least(2 * shape.tokens * shape.dim * (2 * shape.head_dim + 1), 3 * one, one)


OPS: dict[str, Callable[[OpShape, int], _Least]] = {
    "quasiseparable": _quasiseparable,
    "sdpa": _sdpa,
    "linear attention": _linear_attention,
}
