"""An exponential moving average of the weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from statefilm.errors import UsageError
from statefilm.training import recipe as recipes
from statefilm.training.parallel.sharding import local
from statefilm.training.tensor_files import fill

__all__ = ["MovingAverage"]


class MovingAverage:
    """Averages of named parameters.

    Args:
        parameters: those that are trained.
        config: the recipe's section; the decay after n updates is at most
            (1 + n) / (warmup + n), so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: recipes.EMA) -> None:
        self.config = config
        self.updates = 0
        self._parameters = dict(parameters)
        self._averages = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self.config.decay, (1 + self.updates) / (self.config.warmup + self.updates))
        averages = [local(average) for average in self._averages.values()]
        weights = [local(p.detach()).float() for p in self._parameters.values()]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averages inside this context, its own weights after it."""
        weights = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._give(self._averages)
        try:
            yield
        finally:
            self._give(weights)

    def _give(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters, whose memory sharded models hold on to."""
        for name, parameter in self._parameters.items():
            local(parameter.detach()).copy_(local(tensors[name]))

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self._averages)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take back what `tensors` gave, and how many updates went into it."""
        for name, average in self._averages.items():
            if name not in tensors:
                raise UsageError(
                    f"the checkpoint does not fit the recipe: it has no average of {name!r}, which "
                    "was not trained"
                )
            fill(average, tensors, name)
        self.updates = updates
