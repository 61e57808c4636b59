"""Numerical kernels: state-space sequence ops, each with a reference and a fast form."""

from statefilm.ops.quasiseparable import quasiseparable
from statefilm.ops.ssd import ssd

__all__ = ["quasiseparable", "ssd"]
