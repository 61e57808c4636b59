"""The plan: one entry a block, its mixer and its scans, as plain data in a model's config."""

from collections.abc import Sequence
from typing import TypedDict

from statefilm.scans import resolve


class BlockPlan(TypedDict):
    """One block: the token mixer and the scan it walks in images (T = 1) and in videos."""

    mixer: str
    image_scan: str
    video_scan: str


Plan = list[BlockPlan]

PLACEMENTS = ("spread", "first", "last")
_TEMPORAL = {"thw": "TH", "twh": "TV"}


def hybrid_plan(
    sets: int = 3,
    hydra_per_set: int = 10,
    *,
    attention: str = "last",
    scans: Sequence[str] = ("H", "V"),
    mixer: str = "hydra",
) -> Plan:
    """The published layout of HTH (arXiv 2502.00972, figures 3 and 4), for images.

    Args:
        sets: how many sets of blocks.
        hydra_per_set: state-space blocks of a set.
        attention: where the set's one self-attention block stands: "first", "middle", "last" or
            "none". The paper does not state it; "last" is the default here.
        scans: the scans that the state-space blocks take in turn.
        mixer: the state-space mixer.

    Raises:
        ValueError: an unknown place or scan, or a set without a block.
    """
    places = {"first": 0, "middle": hydra_per_set // 2, "last": hydra_per_set, "none": None}
    if attention not in places:
        raise ValueError(f"unknown attention place {attention!r}; valid: {', '.join(places)}")
    if sets < 1 or hydra_per_set < 1:
        raise ValueError(f"a plan needs sets and blocks >= 1, got {sets} x {hydra_per_set}")
    for scan in scans:
        resolve(scan)
    plan: Plan = []
    turn = 0
    for _ in range(sets):
        for place in range(hydra_per_set + 1):
            if place == places[attention]:
                plan.append(_block("attention", "H"))
            if place < hydra_per_set:
                plan.append(_block(mixer, scans[turn % len(scans)]))
                turn += 1
    return plan


def attention_plan(depth: int) -> Plan:
    """The DiT baseline: self-attention in every block."""
    return [_block("attention", "H") for _ in range(depth)]


def mixed_plan(
    depth: int,
    attention: int,
    *,
    scans: Sequence[str] = ("H", "V"),
    mixer: str = "hydra",
) -> Plan:
    """`attention` self-attention blocks spread evenly over `depth`, each closing its stretch.

    Raises:
        ValueError: more attention blocks than blocks, or an unknown scan.
    """
    if not 0 <= attention <= depth or depth < 1:
        raise ValueError(f"{attention} attention blocks do not fit a depth of {depth}")
    for scan in scans:
        resolve(scan)
    closing = {-(-depth * (k + 1) // attention) - 1 for k in range(attention)}
    plan: Plan = []
    for index in range(depth):
        turn = sum(block["mixer"] != "attention" for block in plan)
        in_turn = _block(mixer, scans[turn % len(scans)])
        plan.append(_block("attention", "H") if index in closing else in_turn)
    return plan


def to_video(plan: Plan, fraction: float = 0.4, placement: str = "spread") -> Plan:
    """The plan with some blocks turned temporal-major in videos; image scans and weights stay.

    A set ends where its attention block stands at its end, or with the plan. In each set
    `fraction` of the state-space blocks change (arXiv 2502.00972, figure 4: 4 of 10), taking TH
    where they scanned horizontally and TV where vertically. Which ones change is not published.

    Args:
        plan: of an image model, or of a video model to be planned anew.
        fraction: 0 to 1, share of the state-space blocks of each set.
        placement: "spread" over the set, or its "first" or "last" blocks.

    Raises:
        ValueError: fraction outside [0, 1] or an unknown placement.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"temporal fraction {fraction} is not within 0 and 1")
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; valid: {', '.join(PLACEMENTS)}")
    video = [_block(b["mixer"], b["image_scan"]) for b in plan]
    for members in _sets(plan):
        for index in _choose(members, round(fraction * len(members)), placement):
            scan = video[index]["image_scan"]
            video[index]["video_scan"] = _TEMPORAL.get(resolve(scan), "TH")
    return video


def add_temporal(plan: Plan, count: int) -> tuple[Plan, list[int]]:
    """The plan with new temporal-major blocks, spread evenly, for what the authors of HTH tried.

    They found that it fails (arXiv 2502.00972); no weights go with it, see `transplant.grown`.

    Args:
        plan: of an image model.
        count: new blocks, each of the plan's state-space mixer, TH and TV by turns.

    Returns:
        The longer plan, and the places of the new blocks in it, rising.

    Raises:
        ValueError: more new blocks than blocks, or a plan without a state-space block.
    """
    if not 0 <= count <= len(plan):
        raise ValueError(f"{count} added blocks do not fit a plan of {len(plan)}")
    mixer = next((block["mixer"] for block in plan if block["mixer"] != "attention"), None)
    if mixer is None and count:
        raise ValueError("the plan has no state-space block whose kind could be added")
    middles = [len(plan) * (2 * number + 1) // (2 * count) for number in range(count)]
    longer: Plan = []
    places: list[int] = []
    for index, block in enumerate(plan):
        if index in middles:
            assert mixer is not None
            image, video = (("H", "TH"), ("V", "TV"))[len(places) % 2]
            places.append(len(longer))
            longer.append(_block(mixer, image, video))
        longer.append(_block(block["mixer"], block["image_scan"], block["video_scan"]))
    return longer, places


def check_plan(plan: Plan) -> Plan:
    """A copy of a plan whose blocks are whole and whose scans exist.

    Raises:
        ValueError: no block, a block without all three fields or with others, an unknown scan.
    """
    if not plan:
        raise ValueError("the plan has no block; it needs at least one")
    for index, block in enumerate(plan):
        if set(block) != set(BlockPlan.__annotations__):
            raise ValueError(
                f"block {index} of the plan has {sorted(block)}, "
                f"expected {sorted(BlockPlan.__annotations__)}"
            )
        for field, value in block.items():
            if not isinstance(value, str):
                raise ValueError(f"block {index} of the plan has {field} {value!r}, not a name")
        resolve(block["image_scan"])
        resolve(block["video_scan"])
    return [BlockPlan(**block) for block in plan]


def _block(mixer: str, scan: str, video_scan: str | None = None) -> BlockPlan:
    return {"mixer": mixer, "image_scan": scan, "video_scan": video_scan or scan}


def _sets(plan: Plan) -> list[list[int]]:
    """Indices of the scanning blocks, set by set; a set holds the blocks between attentions."""
    sets: list[list[int]] = [[]]
    for index, block in enumerate(plan):
        if block["mixer"] == "attention":
            sets.append([])
        else:
            sets[-1].append(index)
    return [members for members in sets if members]


def _choose(members: list[int], count: int, placement: str) -> list[int]:
    if placement == "first":
        return members[:count]
    if placement == "last":
        return members[len(members) - count :]
    # Spread in pairs of neighbours, since neighbours alternate between horizontal and vertical.
    pairs = [members[i : i + 2] for i in range(0, len(members), 2)]
    wanted = -(-count // 2)
    picked = [pairs[(2 * i + 1) * len(pairs) // (2 * wanted)] for i in range(wanted)]
    chosen = [index for pair in picked for index in pair]
    # A last pair of one block leaves others to be found.
    left = [index for index in members if index not in chosen]
    return sorted([*chosen, *left][:count])
