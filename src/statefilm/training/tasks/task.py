"""The interface of what a run trains: modules, batches, a loss, and a model to save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from statefilm.training.batches import Batch, Batches

__all__ = ["Task"]


class Task(ABC):
    """Modules to train, their batches and their loss.

    Attributes:
        modules: everything that is trained, under the names that checkpoints use.
        batches: the data of every step.
        held_out: those of the recipe's `validation`, where it has one.
        output: name of the saved model's folder inside the run folder.
        vocabulary: the words that a fresh tokenizer knows, in the order of its ids: those of the
            data at the start of a run, whatever becomes of the data. None where there is none.
    """

    modules: nn.ModuleDict
    batches: Batches
    held_out: Batches | None
    output: str
    vocabulary: Sequence[str] | None = None

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch on the task's device, a scalar."""

    def validation_loss(self, batch: Batch) -> Tensor:
        """What `loss` is on held-out data, where nothing learns."""
        return self.loss(batch)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model as it is now."""

    @abstractmethod
    def sample(self, folder: Path, step: int) -> None:
        """Write pictures that show what the model can do, named after the step."""

    @abstractmethod
    def compile(self) -> None:
        """Compile each repeated block; the names of parameters stay."""

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """No dropout, no gradients and no new compiled graphs inside."""
        self.modules.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            try:
                yield
            finally:
                self.modules.train()
