"""Context parallelism: the tokens of a sequence lie on several processes, exactly for every scan.

A block works on its own part of the tokens. All it does is done token by token, but for the few
ops inside mixers that look along the sequence; these work head by head, so that around each of them
an all-to-all trades tokens for heads and back (DeepSpeed-Ulysses, arXiv 2309.14509). Convolutions
need the neighbours' nearest tokens only.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import checkpoint

from statefilm.errors import UsageError
from statefilm.mixers import (
    BiMamba2Mixer,
    HydraMixer,
    LinearAttentionMixer,
    S4DMixer,
    S6Mixer,
    SelfAttentionMixer,
)
from statefilm.models import HTHTransformer
from statefilm.models.blocks import HTHBlock
from statefilm.training.parallel.collectives import gather
from statefilm.training.parallel.sequence_ops import MirroredOps, SequenceOps

__all__ = ["split_tokens"]

MIXERS: dict[type[nn.Module], type[SequenceOps]] = {
    HydraMixer: SequenceOps,
    BiMamba2Mixer: MirroredOps,
    LinearAttentionMixer: SequenceOps,
    SelfAttentionMixer: SequenceOps,
    S4DMixer: SequenceOps,
    S6Mixer: SequenceOps,
}


def split_tokens(modules: nn.ModuleDict, mesh: DeviceMesh) -> None:
    """Have the blocks of the denoisers among `modules` share their tokens.

    The models stay as they are but for what the forward of each block and mixer does. Activation
    checkpointing, where it is on, keeps a process's own tokens.

    Args:
        mesh: [samples, context]; the processes along the second axis share.

    Raises:
        UsageError: there is no denoiser, or one with a mixer that cannot be split.
    """
    group = mesh.get_group("context")
    denoisers = [m for m in modules.values() if isinstance(m, HTHTransformer)]
    if not denoisers:
        raise UsageError(
            f"parallel.context {group.size()}: only a run of kind denoiser can split its tokens; "
            "use parallel.shard or 1"
        )
    for denoiser in denoisers:
        checkpointed = denoiser.gradient_checkpointing
        denoiser.disable_gradient_checkpointing()
        for block in denoiser.modules():
            if isinstance(block, HTHBlock):
                _split_mixer(block.mixer, group)
                run = partial(_run_block, block.forward, group, checkpointed)
                block.forward = run  # type: ignore[method-assign]


def _run_block(
    forward: Any,
    group: dist.ProcessGroup,
    checkpointed: bool,
    hidden_states: Tensor,
    text: Any,
    mask: Tensor | None,
    time: Tensor | None,
    positions: Tensor | None,
) -> Tensor:
    """A block's forward on this process's tokens; all tokens in, all tokens out."""
    length, size, rank = hidden_states.shape[1], group.size(), group.rank()
    if length % size:
        raise UsageError(f"parallel.context {size} does not divide a sequence of {length} tokens")
    tokens = hidden_states.chunk(size, 1)[rank]
    here = None if positions is None else positions.chunk(size, 0)[rank]
    if checkpointed and torch.is_grad_enabled():
        tokens = checkpoint(forward, tokens, text, mask, time, here, use_reentrant=False)
    else:
        tokens = forward(tokens, text, mask, time, here)
    return gather(tokens, 1, group)


def _split_mixer(mixer: nn.Module, group: dist.ProcessGroup) -> None:
    """Let a mixer's sequence ops be those of tokens that lie on several processes."""
    if type(mixer) not in MIXERS:
        valid = ", ".join(sorted(kind.__name__ for kind in MIXERS))
        raise UsageError(
            f"parallel.context {group.size()}: {type(mixer).__name__} cannot split its tokens; "
            f"those that can are {valid}"
        )
    ops = MIXERS[type(mixer)](group).table()
    for part in mixer.modules():
        forward = type(part).forward
        if isinstance(forward, FunctionType) and ops.keys() & set(forward.__code__.co_names):
            part.forward = MethodType(_with_globals(forward, ops), part)


def _with_globals(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    """The same function, but for what some global names in it mean."""
    known = {**function.__globals__, **names}
    changed = FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    return changed
