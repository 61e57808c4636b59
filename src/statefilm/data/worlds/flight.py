"""Verdicts on things that fly straight and bounce, from their centres in each frame."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

import torch

# Canvas sides. A bend is the change between the ways of two successive frames.
MAX_BEND = 0.01  # of straight flight
MAX_STEADY_BEND = 0.006  # of flight whose velocity is good enough to predict from
MAX_MISS = 0.024  # of the place shown from the one predicted, one or two frames on
MIN_CHANGE = 0.03  # of the prolonged way from the place shown or predicted, for an event
MIN_STEP = 0.004  # of the fastest thing in a frame that is not still

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def flight_verdicts(
    centres: torch.Tensor, seen: torch.Tensor, near: torch.Tensor, predict: Predict
) -> dict[str, float]:
    """Judges the flight of n things over T frames.

    Args:
        centres: float64 [T, n, 2] in canvas sides; of no meaning where a frame is not `seen`.
        seen: bool [T], whether all things were found in a frame.
        near: bool [T, n], whether a thing may touch something within a frame of this one.
        predict: from the centres [n, 2] of two successive frames without contact between them to
            those of the two frames after, [2, n, 2], by the world's own laws.

    Returns:
        "moving": part of the steps from frame to frame in which something moves.
        "straight": part of the moments (a thing in three frames) away from contact that bend by at
        most `MAX_BEND`; three frames of which one was not read count as bent.
        "collisions": part of the events that end as predicted from the frames before. Events are
        changes of velocity that the law predicts or the clip shows, judged from the frames
        before in which all things flew straight; and every bend away from contact, which is a
        failure. nan without events.
    """
    steps = centres.diff(dim=0)
    both = seen[1:] & seen[:-1]
    bend = torch.zeros(*centres.shape[:2], dtype=centres.dtype)
    bend[1:-1] = steps.diff(dim=0).norm(dim=-1)
    triple = torch.zeros_like(seen)
    triple[1:-1] = both[1:] & both[:-1]
    away = triple[:, None] & ~near
    away[1:-1] &= ~near[2:] & ~near[:-2]

    straight = int((away & (bend <= MAX_BEND)).sum())
    unread = int((~triple[1:-1]).sum()) * centres.shape[1]
    moves = (steps.norm(dim=-1) > MIN_STEP).any(1) & both
    kept, events = _collisions(centres, triple, bend, predict)
    events += int((away & (bend > MAX_BEND)).sum())
    return {
        "moving": share(int(moves.sum()), len(moves)),
        "straight": share(straight, int(away.sum()) + unread),
        "collisions": share(kept, events),
    }


def share(part: int, whole: int) -> float:
    """part / whole, nan for nothing of nothing."""
    return part / whole if whole else float("nan")


def _collisions(
    centres: torch.Tensor, triple: torch.Tensor, bend: torch.Tensor, predict: Predict
) -> tuple[int, int]:
    """Events that end as predicted from every frame before them that can tell, and all of them."""
    steady = triple & (bend <= MAX_STEADY_BEND).all(1)
    ahead = torch.tensor([1.0, 2.0], dtype=centres.dtype)[:, None, None]
    event = torch.zeros(centres.shape[:2], dtype=torch.bool)
    right = torch.zeros_like(event)
    for now in range(2, len(centres) - 2):
        if not (steady[now - 1] and triple[now] and triple[now + 1]):
            continue
        prolonged = centres[now] + ahead * (centres[now] - centres[now - 1])
        predicted = predict(centres[now - 1], centres[now])
        shown = centres[now + 1 : now + 3]
        changes = [(prolonged - other).norm(dim=-1).amax(0) for other in (predicted, shown)]
        event[now] = torch.maximum(*changes) > MIN_CHANGE
        right[now] = (predicted - shown).norm(dim=-1).amax(0) <= MAX_MISS
    judged = []
    for column in torch.stack([event, right], dim=-1).unbind(1):
        for held, frames in groupby(column.tolist(), key=itemgetter(0)):
            if held:
                judged.append(all(was_right for _, was_right in frames))
    return sum(judged), len(judged)
