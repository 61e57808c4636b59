"""The task of a VAE: reconstruction of frames through a narrow code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ModelMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.models.discriminator import PatchDiscriminator
from statefilm.models.perceptual import PerceptualDistance
from statefilm.models.vae import build_vae, latent_shape, load_vae
from statefilm.models.video_vae import inflate
from statefilm.pipelines.loading import vae_folder
from statefilm.pipelines.media import make_grid, save_png
from statefilm.training.adversary import Adversary
from statefilm.training.batches import Batch, batches_of
from statefilm.training.objectives import Draw
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import VAERecipe, VAESource
from statefilm.training.sources import Size, Source
from statefilm.training.tasks.task import Task

__all__ = ["VAETask"]


class VAETask(Task):
    """Reconstruction of frames through a narrow Gaussian code (arXiv 1312.6114).

    The recipe may add a perceptual distance and an adversary, as in VQGAN (arXiv 2012.09841).
    """

    output = "vae"

    def __init__(
        self,
        recipe: VAERecipe,
        device: torch.device,
        ranks: Ranks,
        sources: Sequence[Source],
    ) -> None:
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.recipe, self.device = recipe, device
        self.vae = _build_vae(recipe.vae).to(device)
        self.modules = nn.ModuleDict({"vae": self.vae})
        self.perceptual, self.adversary = None, None
        if recipe.loss.lpips and recipe.loss.lpips_weights is not None:
            self.perceptual = PerceptualDistance.from_file(recipe.loss.lpips_weights).to(device)
        if recipe.loss.adversary is not None:
            config = recipe.loss.adversary
            discriminator = PatchDiscriminator(3, config.channels, config.layers).to(device)
            self.modules["discriminator"] = discriminator
            self.adversary = Adversary(config, discriminator, ranks)
        shapes = {size: latent_shape(self.vae, *size) for one in sources for size in one.sizes}
        draw = _CodeDraw(shapes)
        self.batches, self.held_out = batches_of(recipe, sources, lambda _: draw, ranks)
        self.modules.train()

    def loss(self, batch: Batch) -> Tensor:
        frames, divergence = self._through_code(batch)
        loss = self._reconstruction(frames, batch.frames)
        adversary = self.adversary
        if adversary is not None and batch.step >= adversary.config.start_step:
            last_weight = self.vae.decoder.conv_out.weight
            loss = loss + adversary.loss(frames, batch.frames, loss, last_weight)
        return loss + self.recipe.loss.kl * divergence

    def validation_loss(self, batch: Batch) -> Tensor:
        frames, divergence = self._through_code(batch)
        return self._reconstruction(frames, batch.frames) + self.recipe.loss.kl * divergence

    def compile(self) -> None:
        raise UsageError("compile: blocks is for denoisers; a VAE trains with compile: none")

    def save(self, folder: Path) -> None:
        """Write the VAE alone, with the scale that brings its latents to unit variance."""
        frames = self.batches.batch(0, 0).to(self.device).frames
        with self.evaluation():
            deviation = self.vae.encode(frames).latent_dist.mode().float().std()
        self.vae.register_to_config(scaling_factor=1 / float(deviation))
        self.vae.save_pretrained(folder)

    def sample(self, folder: Path, step: int) -> None:
        """Frames above, their reconstructions below; of clips the last frame."""
        frames = self.batches.batch(len(self.recipe.data) - 1, 0).frames[:8].to(self.device)
        again = self.vae.decode(self.vae.encode(frames).latent_dist.mode()).sample.float()
        both = torch.cat([frames, again])[:, :, -1].clamp(-1, 1).cpu()
        pixels = ((both + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        images = [Image.fromarray(image) for image in pixels]
        grid = make_grid(images, columns=len(frames))
        save_png(grid, folder / f"step-{step:08d}.png", force=True)

    def _through_code(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frames [B, 3, T, H, W] from a sample of their code, and the code's KL divergence."""
        code = self.vae.encode(batch.frames).latent_dist
        frames = self.vae.decode(code.mean + code.std * batch.noise).sample.float()
        return frames, _divergence(code)

    def _reconstruction(self, frames: Tensor, truth: Tensor) -> Tensor:
        """How far frames [B, 3, T, H, W] are from the truth, weighted as the recipe says."""
        weights = self.recipe.loss
        loss = weights.l1 * F.l1_loss(frames, truth) + weights.l2 * F.mse_loss(frames, truth)
        if self.perceptual is None:
            return loss
        images, true_images = (video.transpose(1, 2).flatten(0, 1) for video in (frames, truth))
        return loss + weights.lpips * self.perceptual(images, true_images).mean()


@dataclass(frozen=True)
class _CodeDraw:
    """`DrawNoise` of a VAE: the noise of its code, nothing dropped."""

    shapes: Mapping[Size, tuple[int, ...]]

    def __call__(self, number: int, size: Size, generators: list[torch.Generator]) -> Draw:
        noise = [torch.randn(self.shapes[size], generator=one) for one in generators]
        nothing = torch.zeros(len(generators))
        return Draw(torch.stack(noise), nothing, nothing.bool())


def _build_vae(source: VAESource) -> ModelMixin:
    if source.preset is not None:
        return build_vae(source.preset, **source.overrides)
    name = source.init_from or source.inflate_from
    assert name is not None
    vae = load_vae(vae_folder(name))
    is_image_vae = isinstance(vae, AutoencoderKL)
    if is_image_vae and source.inflate_from is None:
        raise UsageError(f"{name} holds an image VAE: vae.inflate_from makes a 3-D one of it")
    if not is_image_vae and source.inflate_from is not None:
        raise UsageError(f"{name} holds an {type(vae).__name__}: only an AutoencoderKL is inflated")
    return inflate(vae) if is_image_vae else vae


def _divergence(code: DiagonalGaussianDistribution) -> Tensor:
    """The mean over a code's numbers of their KL divergence from the standard normal, in nats."""
    mean, variance = code.mean.float(), code.var.float()
    return 0.5 * (mean.square() + variance - 1 - code.logvar.float()).mean()
