"""Latents ahead of training: a user's files through the VAE and the text encoder, in parallel."""

from statefilm.training.latents.encode import ENGINES, Outcome, encode_files
from statefilm.training.latents.encoders import EncoderSpec
from statefilm.training.latents.plan import Options
from statefilm.training.latents.source import OwnLatents
from statefilm.training.latents.streams import (
    encode_stream,
    file_streams,
    open_latents_for,
    spec_of,
)

__all__ = [
    "ENGINES",
    "EncoderSpec",
    "Options",
    "Outcome",
    "OwnLatents",
    "encode_files",
    "encode_stream",
    "file_streams",
    "open_latents_for",
    "spec_of",
]
