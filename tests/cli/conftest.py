"""The command line run in this process, and a whole model folder at toy size."""

from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from io import StringIO

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from statefilm import HTHPipeline, TemporalSSMUNet, VideoDiffusionPipeline
from statefilm.cli.main import run
from statefilm.data.world import vocabulary
from statefilm.models import build
from statefilm.models.text import build_text_encoder, build_word_tokenizer
from statefilm.pipelines import ddpm_scheduler

CLASS_NAMES = ["red walls", "blue walls", "7"]
TEXT_DIM = 8


@dataclass(frozen=True)
class Outcome:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def paths(self):
        return self.out.split()


@pytest.fixture
def cli(capfd, tmp_path, monkeypatch):
    """Run `statefilm` with arguments in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*args):
        code = run([str(arg) for arg in args])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return invoke


@pytest.fixture
def refused(cli):
    """Run arguments that are bad input: exit code 2, one line and at most a hint, no result."""

    def invoke(*args):
        outcome = cli(*args)
        lines = outcome.err.splitlines()
        assert outcome.code == 2, outcome
        assert lines and lines[0].startswith("error: "), outcome.err
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), outcome.err
        assert outcome.out == ""
        return outcome.err

    return invoke


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a random pixel pipeline, 32 x 32 and clips of 5 frames; read only."""
    torch.manual_seed(0)
    tokenizer = build_word_tokenizer(vocabulary())
    text_encoder = build_text_encoder(
        "world_t5", vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1
    )
    transformer = build(
        "hth_tiny",
        dim=32,
        ff_dim=64,
        head_dim=16,
        text_dim=32,
        patch_width=4,
        mixer_options={"hydra": {"state_dim": 8, "head_dim": 16}},
        plan=[
            {"mixer": "hydra", "image_scan": "H", "video_scan": "TH"},
            {"mixer": "attention", "image_scan": "H", "video_scan": "H"},
        ],
    )
    for parameter in transformer.parameters():
        if not parameter.any():  # what starts at zero would hide prompt and seed
            torch.nn.init.normal_(parameter, std=0.3)
    pipeline = HTHPipeline(
        tokenizer,
        text_encoder,
        transformer,
        FlowMatchEulerDiscreteScheduler(),
        default_height=32,
        default_width=32,
        default_num_frames=5,
        default_steps=2,
        default_video_guidance_scale=2.0,
    )
    folder = tmp_path_factory.mktemp("models") / "toy"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def unet(tmp_path_factory):
    """A folder with a random video U-Net, 8 x 8 and clips of 3 frames; read only.

    It is made by what it reads: "none", "class" or "text".
    """

    @cache
    def make(reads):
        torch.manual_seed(0)
        conditions = {"class": {"num_classes": 3}, "text": {"text_dim": TEXT_DIM}, "none": {}}
        model = TemporalSSMUNet(
            dim=8,
            multipliers=(1, 2),
            groups=4,
            spatial_heads=2,
            temporal_mixer="hydra",
            temporal_mixer_options={"state_dim": 4},
            **conditions[reads],
        )
        tokenizer = text_encoder = None
        if reads == "text":
            tokenizer = build_word_tokenizer(["two balls bounce in a green maze"])
            text_encoder = build_text_encoder(
                "world_t5",
                vocab_size=len(tokenizer),
                d_model=TEXT_DIM,
                d_kv=4,
                d_ff=8,
                num_layers=1,
            )
        pipeline = VideoDiffusionPipeline(
            model,
            ddpm_scheduler(4),
            tokenizer,
            text_encoder,
            default_height=8,
            default_width=8,
            default_num_frames=3,
            default_guidance_scale=2.0 if reads == "text" else 1.0,
            class_names=CLASS_NAMES if reads == "class" else None,
        )
        folder = tmp_path_factory.mktemp("models") / reads
        with redirect_stderr(StringIO()):  # its progress bar is not the command's
            pipeline.save_pretrained(folder)
        return folder

    return make
