"""A whole pipeline at toy size: 16 x 16 pixels, two blocks, a one-layer T5."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from statefilm import HTHPipeline
from statefilm.models import build
from statefilm.models.text import build_text_encoder, build_word_tokenizer
from statefilm.models.vae import build_vae

PLAN = [
    {"mixer": "hydra", "image_scan": "thw", "video_scan": "hwt"},
    {"mixer": "attention", "image_scan": "thw", "video_scan": "thw"},
]
SCHEDULERS = {
    "flow_prediction": lambda: FlowMatchEulerDiscreteScheduler(shift=2.0),
    "epsilon": lambda: DDPMScheduler(prediction_type="epsilon"),
    "v_prediction": lambda: DDPMScheduler(prediction_type="v_prediction"),
}


def make_pipeline(prediction="flow_prediction", with_vae=False, plan=PLAN, **defaults):
    torch.manual_seed(0)
    tokenizer = build_word_tokenizer(["a red circle above the blue square, then right"])
    text_encoder = build_text_encoder(
        "world_t5", vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1
    )
    transformer = build(
        "hth_tiny",
        dim=32,
        ff_dim=64,
        head_dim=16,
        text_dim=32,
        plan=plan,
        mixer_options={"hydra": {"state_dim": 8, "head_dim": 16}},
        in_channels=4 if with_vae else 3,
        patch_size=(1, 2, 2) if with_vae else (4, 8, 8),
        patch_width=4,
        head_target="sample" if prediction == "flow_prediction" else "velocity",
    ).eval()
    for parameter in transformer.parameters():
        if not parameter.any():  # an output that starts at zero would hide what the text does
            torch.nn.init.normal_(parameter, std=0.3)
    defaults = {"default_height": 16, "default_width": 16, "default_steps": 3} | defaults
    scheduler = SCHEDULERS[prediction]()
    vae = None
    if with_vae:
        vae = build_vae("world_vae", block_out_channels=(32, 32), latent_channels=4).eval()
    pipe = HTHPipeline(tokenizer, text_encoder.eval(), transformer, scheduler, vae, **defaults)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def pipe():
    """Pixels and flow prediction; shared, so tests must not change it."""
    return make_pipeline()
