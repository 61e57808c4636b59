"""The studies by name; each asks one of the questions that the papers leave open."""

from typing import Any

from statefilm.experiments.study import MANY_STEPS, STEPS, Measures, Stage, Study, timed
from statefilm.models.plan import Plan, attention_plan, hybrid_plan, mixed_plan

PLAN = "model.overrides.plan"
FF = "model.overrides.ff_dim"
DEPTH = 11
MINUTES = 6.0  # an arm, where all train for the same time
PREFIX = 20  # tokens; the world's captions have fewer

# The recipe as it is: one set of ten Hydra blocks, H and V by turns, and attention last.
SHIPPED: dict[str, Any] = {}


def _plan(plan: Plan) -> dict[str, Any]:
    return {PLAN: plan}


def _scans(*scans: str) -> dict[str, Any]:
    return _plan(hybrid_plan(1, scans=scans))


def _conditioned(**fields: Any) -> dict[str, Any]:
    fields = {"conditioning": "add", **fields}
    return {f"model.overrides.{name}": value for name, value in fields.items()}


def _placed(fraction: float, placement: str = "spread") -> dict[str, Any]:
    return {"model.plan": {"temporal_fraction": fraction, "placement": placement}}


def _positions(position: str) -> dict[str, Any]:
    return {"model.overrides.position": position}


# Feed-forwards as wide as it takes to have the hybrid's number of parameters.
_DIT = {**_plan(attention_plan(DEPTH)), FF: 234}
_LARGER = {
    "data.0.world.size": 64,
    "data.0.batch_size": 4,
    "data.1.world.size": 64,
    "data.1.batch_size": 16,
}
_MIXERS = {
    "Hydra": SHIPPED,
    "BiMamba-2": {**_plan(hybrid_plan(1, mixer="bimamba2")), FF: 195},
    "linear attention": {
        **_plan(hybrid_plan(1, mixer="linear_attention")),
        FF: 205,
    },
    "attention": _DIT,
}

# As many tokens of latents, 4 x 4 pixels each, as of pixels.
_LATENTS = {
    "model.overrides.in_channels": 8,
    "model.overrides.patch_embed": "plain",
    "model.overrides.patch_size": [2, 1, 1],
}

_STUDIES = (
    Study(
        "dit",
        "Does the hybrid keep up with a transformer of the same size, depth and training FLOPs?",
        {
            "HTH": SHIPPED,
            "DiT": _DIT,
        },
        baseline="DiT",
        equal="flops",
    ),
    Study(
        "ratio",
        "How many of the blocks should be self-attention, and where should a single one stand?",
        {
            "11:0": {**_plan(mixed_plan(DEPTH, 0)), FF: 188},
            "10:1 first": _plan(hybrid_plan(1, attention="first")),
            "10:1 middle": _plan(hybrid_plan(1, attention="middle")),
            "10:1 last": SHIPPED,
            "7:4": {**_plan(mixed_plan(DEPTH, 4)), FF: 205},
            "3:8": {**_plan(mixed_plan(DEPTH, 8)), FF: 222},
            "0:11": _DIT,
        },
        baseline="10:1 last",
        equal="flops",
    ),
    Study(
        "scan",
        "Which orders of walking through an image serve the state-space blocks best?",
        {
            "H": _scans("H"),
            "H V": SHIPPED,
            "four directions": _scans("H", "V", "diagonal", "antidiagonal"),
            "diagonal": _scans("diagonal"),
            "spiral": _scans("spiral"),
            "hilbert": _scans("hilbert"),
            "random": _scans("random"),
        },
        baseline="H V",
    ),
    Study(
        "temporal",
        "How many of the state-space blocks should turn temporal-major in videos, and which?",
        {
            "none": _placed(0.0),
            "40 % first": _placed(0.4, "first"),
            "40 % spread": _placed(0.4, "spread"),
            "40 % last": _placed(0.4, "last"),
            "all": _placed(1.0),
            "none, 4 added": {"model.plan": {"temporal_fraction": 0.0, "added": 4}},
        },
        baseline="none",
        recipe="experiment_t2v",
        steps=1200,
        before=Stage("experiment_t2i", steps=STEPS),
        measures=Measures(tasks=("single_object", "colors"), clips=96),
        headline="motion_class",
    ),
    Study(
        "temporal-64",
        "Which state-space blocks should turn temporal-major in videos of twice the side?",
        {
            "none": {**_LARGER, **_placed(0.0)},
            "40 % spread": {**_LARGER, **_placed(0.4)},
            "all": {**_LARGER, **_placed(1.0)},
        },
        baseline="none",
        recipe="experiment_t2v",
        steps=600,
        before=Stage("experiment_t2i", steps=STEPS),
        measures=Measures(tasks=("single_object", "colors"), clips=96),
        headline="motion_class",
    ),
    Study(
        "conditioning",
        "How should timestep and text reach the tokens, and what closes the gap in composition?",
        {
            "added": _conditioned(),
            "AdaLN-single": SHIPPED,
            "cross-attention after": _conditioned(cross_attention="after"),
            "prefix": _conditioned(cross_attention="none", text_prefix=PREFIX),
            "prefix and cross-attention": _conditioned(text_prefix=PREFIX),
            "registers": _conditioned(registers=8),
            "stem and head too": _conditioned(patch_modulated=True),
        },
        baseline="added",
        equal="flops",
    ),
    Study(
        "position",
        "Which position codes suit the hybrid, also at sizes it was not trained at?",
        {
            "sinusoidal": SHIPPED,
            "continuous": _positions("continuous"),
            "rope": _positions("rope"),
            "none": _positions("none"),
            "DiT, sinusoidal": _DIT,
            "DiT, continuous": {**_DIT, **_positions("continuous")},
            "DiT, rope": {**_DIT, **_positions("rope")},
        },
        baseline="sinusoidal",
        equal="flops",
        measures=Measures(images={1.0: 96, 1.5: 32, 2.0: 32}, seams=True),
        also=("mean.strict@1.5", "mean.strict@2", "seams@2"),
    ),
    Study(
        "mixer",
        "Which mixer serves the nine tenths of the blocks that are not self-attention?",
        _MIXERS,
        baseline="Hydra",
        equal="flops",
    ),
    Study(
        "latents",
        "Do the latents of a trained VAE serve a small model better than pixels in as much time?",
        # The VAE's own training is on nobody's account; an arm of pixels is given some of its time.
        {
            "pixels": {**timed(MINUTES), "compile": "none"},
            "pixels, four times as long": {**timed(4 * MINUTES), "compile": "none"},
            "latents": {**timed(MINUTES), "compile": "none", **_LATENTS},
            "latents, less noise": {
                **timed(MINUTES),
                "compile": "none",
                **_LATENTS,
                "objective.timesteps": {"logit_normal": [{"mean": 0.0, "std": 1.0}]},
                "objective.shift": 1,
            },
        },
        baseline="latents",
        steps=MANY_STEPS,
        equal="minutes",
        before=Stage(
            "experiment_vae",
            steps=4000,
            fills=("vae",),
            arms=("latents", "latents, less noise"),
        ),
    ),
    Study(
        "mixer-time",
        "Which mixer serves best after the same time on this machine, operations left aside?",
        # Compiling takes time of its own.
        {name: {**own, **timed(MINUTES), "compile": "none"} for name, own in _MIXERS.items()},
        baseline="Hydra",
        steps=MANY_STEPS,
        equal="minutes",
    ),
)

STUDIES = {study.name: study for study in _STUDIES}
