"""The task of a VAE: reconstruction of frames through a narrow code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.models.vae import build_vae, latent_shape, load_vae
from statefilm.pipelines.media import make_grid, save_png
from statefilm.training.batches import Batch, Batches
from statefilm.training.objectives import Draw
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import VAERecipe
from statefilm.training.tasks.task import Task

__all__ = ["VAETask", "vae_folder"]


class VAETask(Task):
    """Reconstruction of frames through a narrow Gaussian code (arXiv 1312.6114)."""

    output = "vae"

    def __init__(self, recipe: VAERecipe, device: torch.device, ranks: Ranks) -> None:
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.recipe, source = recipe, recipe.vae
        if source.init_from is not None:
            self.vae = load_vae(vae_folder(source.init_from))
        else:
            assert source.preset is not None
            self.vae = build_vae(source.preset, **source.overrides)
        self.vae.to(device)
        self.device = device
        self.modules = nn.ModuleDict({"vae": self.vae})
        worlds = [stream.world for stream in recipe.data]
        shapes = tuple(latent_shape(self.vae, w.num_frames, w.size, w.size) for w in worlds)
        self.batches = Batches(recipe.seed, recipe.data, _CodeDraw(shapes), ranks)
        self.modules.train()

    def loss(self, batch: Batch) -> Tensor:
        weights = self.recipe.loss
        code = self.vae.encode(batch.frames).latent_dist
        frames = self.vae.decode(code.mean + code.std * batch.noise).sample.float()
        mean, variance = code.mean.float(), code.var.float()
        divergence = 0.5 * (mean.square() + variance - 1 - code.logvar.float()).mean()
        return (
            weights.l1 * F.l1_loss(frames, batch.frames)
            + weights.l2 * F.mse_loss(frames, batch.frames)
            + weights.kl * divergence
        )

    def compile(self) -> None:
        raise UsageError("compile: blocks is for denoisers; a VAE trains with compile: none")

    def save(self, folder: Path) -> None:
        """Write the VAE with the scale that brings its latents to unit variance."""
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


@dataclass(frozen=True)
class _CodeDraw:
    """`DrawNoise` of a VAE: the noise of its code, nothing dropped."""

    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, number: int, generators: list[torch.Generator]) -> Draw:
        noise = [torch.randn(self.shapes[number], generator=one) for one in generators]
        nothing = torch.zeros(len(generators))
        return Draw(torch.stack(noise), nothing, nothing.bool())


def vae_folder(name: str) -> Path:
    """The VAE's own folder, inside a run or a pipeline where `name` is one."""
    folder = Path(name)
    inner = (folder / "vae", folder / "pipeline" / "vae")
    return next((path for path in inner if (path / "config.json").is_file()), folder)
