"""Context parallelism: the tokens of a sequence lie on several processes, exactly for every scan.

A block works on its own part of the tokens. All it does is done token by token, but for the few
ops inside mixers that look along the sequence; these work head by head, so that around each of them
an all-to-all trades tokens for heads and back (DeepSpeed-Ulysses, arXiv 2309.14509). Convolutions
need the neighbours' nearest tokens only. Parts of tokens may differ by one; those of heads do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
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
from statefilm.training.parallel.collectives import gather, part_sizes
from statefilm.training.parallel.sequence_ops import MirroredOps, SequenceOps

__all__ = ["check_split", "split_problem", "split_tokens"]

MIXERS: dict[type[nn.Module], type[SequenceOps]] = {
    HydraMixer: SequenceOps,
    BiMamba2Mixer: MirroredOps,
    LinearAttentionMixer: SequenceOps,
    SelfAttentionMixer: SequenceOps,
    S4DMixer: SequenceOps,
    S6Mixer: SequenceOps,
}


def check_split(modules: nn.ModuleDict, lengths: Mapping[str, int], size: int) -> None:
    """Raise unless so many processes can share the tokens of the denoisers among `modules`.

    Args:
        lengths: the shortest sequence of each kind of samples, by its name.
        size: `parallel.context`.

    Raises:
        UsageError: they cannot; one line that says what can.
    """
    problem = split_problem(modules, lengths, size)
    if problem is not None:
        raise UsageError(f"parallel.context {size}: {problem}")


def split_problem(modules: nn.ModuleDict, lengths: Mapping[str, int], size: int) -> str | None:
    """Why `check_split` would raise; None if it would not."""
    blocks = [block for denoiser in _denoisers(modules) for block in _blocks(denoiser)]
    if not blocks:
        return "only a run of kind denoiser can split its tokens; use parallel.shard or 1"
    for block in blocks:
        kind = type(block.mixer)
        if kind not in MIXERS:
            valid = ", ".join(sorted(one.__name__ for one in MIXERS))
            return f"{kind.__name__} cannot split its tokens; those that can are {valid}"
    counts = {_heads(block): type(block.mixer).__name__ for block in blocks}
    for (heads, groups), name in counts.items():
        if not _divides(size, heads, groups):
            most = min(heads for heads, _ in counts)
            fitting = (n for n in range(1, most + 1) if all(_divides(n, *one) for one in counts))
            of = f" in {groups} groups" if groups > 1 else ""
            return (
                f"it does not divide the {heads} heads{of} of {name}: "
                f"valid are {', '.join(map(str, fitting))}"
            )
    for name, length in lengths.items():
        if length < size:
            return (
                f"each process needs a token, and sequences of {name} may have only {length}: "
                f"at most {length} is valid"
            )
    return None


def split_tokens(modules: nn.ModuleDict, mesh: DeviceMesh) -> None:
    """Have the blocks of the denoisers among `modules` share their tokens.

    The models stay as they are but for what the forward of each block and mixer does. Activation
    checkpointing, where it is on, keeps a process's own tokens.

    Args:
        modules: those that `check_split` lets pass.
        mesh: [samples, context]; the processes along the second axis share.
    """
    group = mesh.get_group("context")
    for denoiser in _denoisers(modules):
        checkpointed = denoiser.gradient_checkpointing
        denoiser.disable_gradient_checkpointing()
        for block in _blocks(denoiser):
            ops = MIXERS[type(block.mixer)](group)
            _split_mixer(block.mixer, ops)
            run = partial(_run_block, block.forward, ops, checkpointed)
            block.forward = run  # type: ignore[method-assign]


def _denoisers(modules: nn.ModuleDict) -> list[HTHTransformer]:
    return [module for module in modules.values() if isinstance(module, HTHTransformer)]


def _blocks(denoiser: nn.Module) -> list[HTHBlock]:
    return [module for module in denoiser.modules() if isinstance(module, HTHBlock)]


def _heads(block: HTHBlock) -> tuple[int, int]:
    """What the ops of a block's mixer do one by one, heads or else channels; and their groups."""
    mixer: Any = block.mixer
    heads = getattr(mixer, "heads", None)
    if heads is None:
        width = getattr(mixer, "inner", block.norm_mixer.normalized_shape[0])
        heads = width // getattr(mixer, "head_dim", 1)
    return heads, getattr(mixer, "groups", 1)


def _divides(size: int, heads: int, groups: int) -> bool:
    """Whether each of so many processes can have as many heads, and whole groups or one alone."""
    return heads % size == 0 and (groups % size == 0 or size % groups == 0)


def _run_block(
    forward: Any,
    ops: SequenceOps,
    checkpointed: bool,
    hidden_states: Tensor,
    text: Any,
    mask: Tensor | None,
    time: Tensor | None,
    positions: Tensor | None,
) -> Tensor:
    """A block's forward on this process's tokens; all tokens in, all tokens out."""
    lengths = part_sizes(hidden_states.shape[1], ops.size)
    tokens = hidden_states.split(lengths, 1)[ops.rank]
    here = None if positions is None else positions.split(lengths, 0)[ops.rank]
    run = partial(_run_part, forward, ops, lengths)
    if checkpointed and torch.is_grad_enabled():
        tokens = checkpoint(run, tokens, text, mask, time, here, use_reentrant=False)
    else:
        tokens = run(tokens, text, mask, time, here)
    return gather(tokens, 1, lengths, ops.group)


def _run_part(forward: Any, ops: SequenceOps, lengths: list[int], *inputs: Any) -> Tensor:
    """A block's forward; a checkpoint runs it again after other sequences may have passed."""
    ops.lengths = lengths
    tokens: Tensor = forward(*inputs)
    return tokens


def _split_mixer(mixer: nn.Module, ops: SequenceOps) -> None:
    """Let a mixer's sequence ops be those of tokens that lie on several processes."""
    table = ops.table()
    for part in mixer.modules():
        forward = type(part).forward
        if isinstance(forward, FunctionType) and table.keys() & set(forward.__code__.co_names):
            part.forward = MethodType(_with_globals(forward, table), part)


def _with_globals(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    """The same function, but for what some global names in it mean."""
    known = {**function.__globals__, **names}
    changed = FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    return changed
