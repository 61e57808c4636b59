"""Muon with small matrices in batches, and over several processes, each of which does its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Muon
from torch.optim._muon import _adjust_lr

from statefilm.training.parallel.sharding import local

__all__ = ["SharedMuon"]

TOGETHER = 2**20  # elements of a batch of matrices

Work = Callable[[Sequence[Tensor]], list[Tensor]]


class SharedMuon(Muon):
    """torch's Muon (Jordan et al. 2024), which does one matrix after the other; here small ones of
    one shape are a batch.

    Over several processes the matrices are dealt out to them. Where all processes have all
    gradients, each sends the matrices that it has orthogonalised. Where the gradients are sharded,
    an all-to-all brings together the rows of a process's matrices, and another takes them back;
    copies of a sharded model each do so for themselves. Rows travel in bfloat16, in which torch
    orthogonalises.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters."""
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            updates = []
            for gradient, momentum in zip(gradients, momenta, strict=True):
                here = local(gradient)
                local(momentum).lerp_(here, 1 - group["momentum"])
                updates.append(here.lerp(local(momentum), group["momentum"]))
            directions = _orthogonalise(parameters, updates, group)
            for parameter, direction in zip(parameters, directions, strict=True):
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
                here = local(parameter.detach())
                here.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)
        return None


def _orthogonalise(
    parameters: Sequence[Tensor], updates: Sequence[Tensor], group: dict[str, Any]
) -> list[Tensor]:
    """This process's rows of each orthogonalised update."""
    if not parameters:
        return []
    work = partial(_zeroth_powers, group=group)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work(updates)
    first = parameters[0]
    if not isinstance(first, DTensor):
        return _replicated(updates, work)
    mesh = first.device_mesh
    return _sharded([p.shape for p in parameters], updates, work, mesh.get_group(mesh.ndim - 1))


def _zeroth_powers(matrices: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Matrices orthogonalised, those of one shape together."""
    places: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(place)
    done = list(matrices)
    for shape, own in places.items():
        count = max(1, TOGETHER // shape.numel())
        for start in range(0, len(own), count):
            part = own[start : start + count]
            powers = _newton_schulz(torch.stack([matrices[place] for place in part]), group)
            for place, power in zip(part, powers.contiguous(), strict=True):
                done[place] = power
    return done


def _newton_schulz(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """A batch [n, rows, columns] with singular values near one, in bfloat16.

    Source: Jordan et al. 2024; as torch does it for one matrix, `_zeropower_via_newtonschulz`.
    """
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    norms = torch.stack([one.norm() for one in x])
    x = x / norms.clamp(min=group["eps"])[:, None, None]
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _replicated(updates: Sequence[Tensor], work: Work) -> list[Tensor]:
    """Each process does its share of the matrices and gives them to all."""
    size, rank = dist.get_world_size(), dist.get_rank()
    owners = _deal([u.numel() for u in updates], size)
    counts = [
        sum(u.numel() for u, o in zip(updates, owners, strict=True) if o == r) for r in range(size)
    ]
    mine = work([u for u, owner in zip(updates, owners, strict=True) if owner == rank])
    sent = updates[0].new_zeros(max(counts), dtype=torch.bfloat16)
    if mine:
        sent[: counts[rank]] = torch.cat([direction.flatten() for direction in mine])
    received = [torch.empty_like(sent) for _ in range(size)]
    dist.all_gather([_bytes(r) for r in received], _bytes(sent))
    offsets, directions = [0] * size, []
    for update, owner in zip(updates, owners, strict=True):
        flat = received[owner][offsets[owner] : offsets[owner] + update.numel()]
        directions.append(flat.view(update.shape))
        offsets[owner] += update.numel()
    return directions


def _sharded(
    shapes: Sequence[torch.Size], updates: Sequence[Tensor], work: Work, group: dist.ProcessGroup
) -> list[Tensor]:
    """Rows go to the process that does their matrix, and come back from it."""
    size, rank = group.size(), group.rank()
    owners = _deal([shape.numel() for shape in shapes], size)
    order = sorted(range(len(shapes)), key=owners.__getitem__)
    mine = [i for i in order if owners[i] == rank]
    rows = [_rows(shapes[i][0], size) for i in range(len(shapes))]
    sent = [sum(updates[i].numel() for i in order if owners[i] == other) for other in range(size)]
    received = [sum(rows[i][other] * shapes[i][1] for i in mine) for other in range(size)]

    flat = torch.cat([updates[i].flatten() for i in order]).bfloat16()
    parts = _all_to_all(flat, sent, received, group).split(received)
    pieces = [
        part.split([rows[i][other] * shapes[i][1] for i in mine])
        for other, part in enumerate(parts)
    ]
    done = work(
        [
            torch.cat(piece).view(shapes[i])
            for i, piece in zip(mine, zip(*pieces, strict=True), strict=True)
        ]
    )
    back = [
        matrix.split(rows[i])[other].flatten()
        for other in range(size)
        for i, matrix in zip(mine, done, strict=True)
    ]
    empty = flat.new_empty(0)
    flat = _all_to_all(torch.cat([empty, *back]), received, sent, group)
    directions = dict(zip(order, flat.split([updates[i].numel() for i in order]), strict=True))
    return [directions[i].view(updates[i].shape) for i in range(len(updates))]


def _deal(sizes: Sequence[int], processes: int) -> list[int]:
    """Who does which matrix: the largest first, each to who has least to do."""
    loads, owners = [0] * processes, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += sizes[index]
    return owners


def _rows(count: int, processes: int) -> list[int]:
    """How FSDP2 cuts rows: as torch.chunk, the last processes having fewer or none."""
    share = -(-count // processes)
    return [max(0, min(share, count - share * process)) for process in range(processes)]


def _all_to_all(
    x: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
) -> Tensor:
    """Stretches of a flat tensor to all processes, and theirs."""
    y = x.new_empty(sum(received))
    width = x.itemsize
    dist.all_to_all_single(
        _bytes(y), _bytes(x), [width * n for n in received], [width * n for n in sent], group=group
    )
    return y


def _bytes(x: Tensor) -> Tensor:
    """The memory of a flat tensor: backends move bytes, whatever dtypes they add."""
    return x.view(torch.uint8)
