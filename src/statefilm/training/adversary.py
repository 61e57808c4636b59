"""The adversary of a VAE: one loss, whose backward trains each of the two against the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from statefilm.models.discriminator import PatchDiscriminator
from statefilm.training import recipe as recipes
from statefilm.training.parallel import Ranks

__all__ = ["Adversary", "balance"]

MOST = 1e4  # of the balancing factor


class Adversary:
    """Hinge losses of a patch discriminator and of the VAE that it judges.

    Both are parts of one sum and keep to their own weights: the discriminator judges frames that
    are cut off from the VAE, and the VAE is judged by a copy of the discriminator that takes no
    gradient. So the loop needs no second optimizer and no second backward.

    Args:
        config: the recipe's section.
        discriminator: its parameters belong to the task's modules.
        ranks: the balance is that of the whole batch.
    """

    def __init__(
        self, config: recipes.Adversary, discriminator: PatchDiscriminator, ranks: Ranks
    ) -> None:
        self.config, self.discriminator, self.ranks = config, discriminator, ranks

    def loss(
        self, frames: Tensor, truth: Tensor, reconstruction: Tensor, last_weight: nn.Parameter
    ) -> Tensor:
        """What is added to the loss of the VAE, a scalar.

        Args:
            frames: the decoder's [B, 3, T, H, W].
            truth: of the same shape.
            reconstruction: the loss that holds the frames to the truth.
            last_weight: of the decoder's last layer.
        """
        copy = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        caught = -functional_call(self.discriminator, copy, (frames,)).float().mean()
        factor = balance(reconstruction, caught, last_weight, self.ranks)
        return self.config.weight * factor * caught + self._judgement(frames.detach(), truth)

    def _judgement(self, frames: Tensor, truth: Tensor) -> Tensor:
        """The hinge loss of the discriminator (arXiv 1705.02894, equation 4)."""
        real, made = self.discriminator(truth).float(), self.discriminator(frames).float()
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def balance(
    reconstruction: Tensor, caught: Tensor, last_weight: nn.Parameter, ranks: Ranks
) -> Tensor:
    """The factor that lets two losses pull at a weight alike (VQGAN, arXiv 2012.09841, eq. 7)."""
    pulls = [
        ranks.mean(torch.autograd.grad(loss, last_weight, retain_graph=True)[0].float()).norm()
        for loss in (reconstruction, caught)
    ]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(max=MOST)
