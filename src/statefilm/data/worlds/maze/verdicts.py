"""Whether a walk is one walk through one maze: its views, its steps and what it sees again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from statefilm.data.worlds.flight import share
from statefilm.data.worlds.maze.plan import FREE, Cell
from statefilm.data.worlds.maze.reader import MazeReading, Sight

MIN_VIEW = 0.85  # part of the columns of a view of a maze; mixed columns at corners read badly
MAX_TURN = math.radians(25)  # per step, with `MAX_WAY`
MAX_WAY = 0.4  # cells per step
MAX_ASIDE = 0.1  # cells off the heading per step
MIN_TURN = math.radians(3)  # of a step that turns, with `MIN_WAY` of one that goes
MIN_WAY = 0.06
MIN_COMMON = 0.8  # part of the cells in view before and after a step that look the same
ABSENCE = 8  # frames out of view after which a cell is seen again


def judge_maze(reading: MazeReading) -> dict[str, float]:
    """The verdicts on a clip, shares from 0 to 1.

    Returns:
        "views": part of the frames that are views of a maze: in at least `MIN_VIEW` of the columns
        a wall of one colour in a band around the horizon, ceiling above and floor below.
        "steps": part of the steps from frame to frame, between views, that are a turn on the spot
        or a way straight ahead, neither none nor too far, and after which the cells still in view
        look as before.
        "walls": of the cells seen again after `ABSENCE` frames or more out of view, each time they
        are, the part that look as at first: block or free, and of the same colour. Cells that were
        free and are free do not count. nan where no cell is seen again. The map goes by the steps:
        after a false one all that follows is on a false place, so that two mazes in one clip fail.
    """
    views = [view >= MIN_VIEW for view in reading.views.tolist()]
    steps = [
        views[now] and views[now + 1] and _explained(reading, now) for now in range(len(views) - 1)
    ]
    returns = list(_returns(reading.sights))
    return {
        "views": share(sum(views), len(views)),
        "steps": share(sum(steps), len(steps)),
        "walls": share(sum(returns), len(returns)),
    }


def _explained(reading: MazeReading, now: int) -> bool:
    """Whether the step after a frame is a turn or a way ahead that keeps what is in view."""
    (x, y, heading), (next_x, next_y, next_heading) = reading.poses[now : now + 2].tolist()
    turn = abs(next_heading - heading)
    dx, dy = next_x - x, next_y - y
    along = dx * math.cos(heading) + dy * math.sin(heading)
    aside = abs(dy * math.cos(heading) - dx * math.sin(heading))
    turns = MIN_TURN <= turn <= MAX_TURN and math.hypot(dx, dy) <= MAX_ASIDE
    goes = MIN_WAY <= along <= MAX_WAY and aside <= MAX_ASIDE and turn <= MIN_TURN
    before, after = reading.sights[now : now + 2]
    common = before.keys() & after.keys()
    same = sum(before[cell] == after[cell] for cell in common)
    return (turns or goes) and bool(common) and same >= MIN_COMMON * len(common)


def _returns(sights: tuple[Sight, ...]) -> Iterator[bool]:
    """For each cell and each of its visits after the first: whether it looks as at first."""
    for visits in _visits(sights).values():
        looks = [Counter(visit).most_common(1)[0][0] for visit in visits]
        for look in looks[1:]:
            if looks[0] != FREE or look != FREE:
                yield look == looks[0]


def _visits(sights: tuple[Sight, ...]) -> dict[Cell, list[list[int]]]:
    """What each cell looked like in each frame of each time that it was in view."""
    visits: dict[Cell, list[list[int]]] = {}
    last: dict[Cell, int] = {}
    for now, sight in enumerate(sights):
        for cell, state in sight.items():
            if now - last.get(cell, -ABSENCE) >= ABSENCE:
                visits.setdefault(cell, []).append([])
            visits[cell][-1].append(state)
            last[cell] = now
    return visits
