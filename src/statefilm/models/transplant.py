"""Weights of one denoiser put into another whose blocks mix tokens in another way."""

from __future__ import annotations

import torch
from torch import Tensor

from statefilm.errors import UsageError
from statefilm.mixers import output_layer
from statefilm.models.hth import HTHTransformer
from statefilm.models.plan import add_temporal

__all__ = ["grown", "transplant"]

# What tensors of one name and shape would otherwise mean differently.
ALIKE = (
    *("in_channels", "patch_size", "patch_embed", "dim", "text_dim", "head_dim"),
    *("head_target", "conditioning", "position", "cross_attention"),
)
# The feed-forward's tensors, and the axis along which its units lie.
UNITS = {"linear_in.weight": 0, "linear_in.bias": 0, "linear_out.weight": 1}


@torch.no_grad()
def transplant(source: HTHTransformer, target: HTHTransformer) -> list[str]:
    """Copy what two denoisers have in common, such as a DiT and the HTH of its size.

    That is all that bears the same name and has the same shape: patches, positions, timestep,
    norms, cross-attention, and the mixers that are of one kind in both. Of wider feed-forwards the
    units with the largest weights are taken. The other mixers keep their fresh weights, whose
    outputs start small.

    Args:
        source: the trained one, read only.
        target: is given the weights.

    Returns:
        The names of the target's parameters that stay as they were.

    Raises:
        UsageError: the two differ in depth, or in a field of `ALIKE`.
    """
    for field in ALIKE:
        theirs, ours = source.config[field], target.config[field]
        if theirs != ours:
            raise UsageError(f"convert_from: its {field} is {theirs}, that of the preset {ours}")
    depths = len(source.blocks), len(target.blocks)
    if depths[0] != depths[1]:
        raise UsageError(f"convert_from: it has {depths[0]} blocks, the preset {depths[1]}")

    given: dict[str, Tensor] = source.state_dict()
    units = {
        f"blocks.{number}.feed_forward.": _largest_units(given, number, block)
        for number, block in enumerate(target.blocks)
    }
    fresh = []
    for name, parameter in target.named_parameters():
        value = given.get(name)
        prefix, _, ending = name.partition("feed_forward.")
        if value is not None and ending in UNITS:
            value = value.index_select(UNITS[ending], units[f"{prefix}feed_forward."])
        if value is None or value.shape != parameter.shape:
            fresh.append(name)
        else:
            parameter.copy_(value)
    return fresh


@torch.no_grad()
def grown(source: HTHTransformer, count: int) -> HTHTransformer:
    """A denoiser with new temporal-major blocks among those of the source, see `add_temporal`.

    What the new blocks add is zero at first, so that the model does what the source does.

    Args:
        source: gives its parts, and is not to be used any more.
        count: of new blocks.

    Raises:
        UsageError: they do not fit the source's plan.
    """
    try:
        plan, places = add_temporal(source.config.plan, count)
    except ValueError as error:
        raise UsageError(f"model.plan.added: {error}") from None
    # diffusers leaves fields out that were not given, of which it keeps the names.
    config = {name: source.config[name] for name in source.config if name[0] != "_"}
    config["plan"] = plan
    with source.token_in.weight.device:
        model = HTHTransformer.from_config(config)
    old = [number for number in range(len(plan)) if number not in places]
    for number, block in zip(old, source.blocks, strict=True):
        model.blocks[number] = block
    for name, module in source.named_children():
        if name != "blocks":
            setattr(model, name, module)
    for number in places:
        block = model.blocks[number]
        ends = [block.feed_forward.linear_out, output_layer(block.get_submodule("mixer"))]
        if hasattr(block, "cross_attention"):
            ends.append(block.cross_attention.to_out)
        for layer in ends:
            for parameter in layer.parameters():
                parameter.zero_()
    return model


def _largest_units(given: dict[str, Tensor], number: int, block: torch.nn.Module) -> Tensor:
    """Numbers, rising, of the source's units that a block of the target has room for."""
    prefix = f"blocks.{number}.feed_forward."
    into, out = given[f"{prefix}linear_in.weight"], given[f"{prefix}linear_out.weight"]
    size = into.norm(dim=1) * out.norm(dim=0)
    room = block.get_parameter("feed_forward.linear_in.weight").shape[0]
    return size.topk(min(room, len(size))).indices.sort().values
