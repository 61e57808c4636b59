"""The training step of a recipe or a preset on fake tensors: real code, no numbers, no memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from statefilm.errors import UsageError
from statefilm.models import UNET_PRESETS, HTHTransformer, TemporalSSMUNet, build
from statefilm.models.flops import token_grid
from statefilm.training.batches import Batch
from statefilm.training.objectives import build_objective
from statefilm.training.optim import Optimizers
from statefilm.training.parallel import Ranks
from statefilm.training.parallel.apply import sequence_lengths
from statefilm.training.planning.ledger import Counts, count
from statefilm.training.planning.sources import planned_sources, planned_vae, without_weights
from statefilm.training.recipe import DenoiserRecipe, Recipe, TextRecipe, UNetRecipe
from statefilm.training.recipe import Optimizer as OptimizerSection
from statefilm.training.sources import Size, Source
from statefilm.training.tasks import DiffusionTask, Task, VAETask, build_task

__all__ = ["Load", "Shell", "preset_shell", "recipe_shell"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Load:
    """One kind of batch.

    Attributes:
        name: what it is called.
        batch_size: samples of a step, over all processes.
        weight: how often steps draw it, in proportion.
        size: frames, height and width of the samples, in pixels.
        tokens: of a sample, as the model mixes them; latent pixels where it has no tokens.
    """

    name: str
    batch_size: int
    weight: float
    size: Size
    tokens: int


@dataclass(frozen=True)
class Shell:
    """A training step whose tensors are fakes.

    Attributes:
        modules: what is trained.
        frozen: what runs along, untrained.
        loads: the kinds of batches.
        lengths: the shortest sequence that blocks mix, of each kind of samples by its name.
        loss: from the number of a load and a number of samples to the loss.
        precision: "float32" or "bfloat16", under autocast as the trainer runs it.
        compiled: whether the run's blocks are, which rules out `parallel.context`.
    """

    modules: nn.ModuleDict
    frozen: dict[str, nn.Module]
    loads: tuple[Load, ...]
    lengths: Mapping[str, int]
    loss: Callable[[int, int], Tensor]
    precision: str
    mode: FakeTensorMode
    compiled: bool = False

    def count(self, number: int, samples: int, *, checkpointing: bool, cuda: bool) -> Counts:
        """What one forward and backward of so many samples of a load takes.

        Args:
            checkpointing: of activations, in the models that can.
            cuda: take the forms of the layers that run on CUDA devices, where they differ.
        """

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
                return self.loss(number, samples)

        modules = [*self.modules.children(), *self.frozen.values()]
        parameters = {p: None for module in modules for p in module.parameters()}
        forms = _forms_of_cuda(modules) if cuda else nullcontext()
        with self.mode, forms:
            for model in self._checkpointable:
                model.enable_gradient_checkpointing()  # says how; the next line says whether
                model.gradient_checkpointing = checkpointing
            return count(forward, parameters, self.frozen.values())

    def optimizer_bytes(self, section: OptimizerSection) -> int:
        """Bytes that the optimizers keep of the trained parameters, after a first step."""
        with self.mode:
            optimizers = Optimizers(self.modules, section)
            for parameter in optimizers.parameters.values():
                parameter.grad = torch.empty_like(parameter)
            optimizers.step(1.0)
            kept = optimizers.tensors().values()
            optimizers.zero_grad()
            return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    @property
    def can_checkpoint(self) -> bool:
        """Whether recipes may ask for activation checkpointing of what is trained."""
        return bool(self._checkpointable)

    @property
    def _checkpointable(self) -> list[Any]:
        kinds = (HTHTransformer, TemporalSSMUNet)
        return [module for module in self.modules.children() if isinstance(module, kinds)]


def recipe_shell(recipe: Recipe) -> Shell:
    """The step that `Trainer` makes of a recipe.

    Of a stream with several sizes the one with the most pixels counts, and captions are as long as
    the recipe lets them be.

    Raises:
        ValueError, FileNotFoundError: as of `build_task` and `without_weights`.
    """
    if isinstance(recipe, TextRecipe):
        raise UsageError(
            f"{recipe.name} is of kind 'text', whose memory is not planned; valid: denoiser, unet, "
            "vae"
        )
    sources = planned_sources(recipe)
    recipe, meta = without_weights(recipe), torch.device("meta")
    with meta, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # as wanted
        task = build_task(recipe, meta, Ranks(), sources=sources, vae=planned_vae(recipe))
    task.device = CPU  # type: ignore[attr-defined]
    sizes = [max(source.sizes, key=math.prod) for source in task.batches.sources]
    generator = torch.Generator().manual_seed(0)
    shapes = [task.batches.draw(n, s, [generator]).noise.shape[1:] for n, s in enumerate(sizes)]
    frozen = _frozen(task)
    mode = FakeTensorMode()
    with mode:
        _fill([*task.modules.children(), *frozen.values()])
        if isinstance(task, DiffusionTask) and isinstance(recipe, DenoiserRecipe | UNetRecipe):
            if task.text is not None:
                task.text.device = CPU
            task.objective = build_objective(recipe.objective, clip_sample=True)
    text = getattr(recipe, "text", None)
    length = 1 if text is None else text.max_length
    text_shapes = [_stored_text(source, length) for source in sources]
    caption = " ".join(["a"] * (length - 1))

    def loss(number: int, samples: int) -> Tensor:
        encoded, text_shape = sources[number].cache is not None, text_shapes[number]
        pixels = shapes[number] if encoded else (3, *sizes[number])
        return task.loss(
            Batch(
                step=recipe.steps,
                stream=number,
                names=[""] * samples,
                captions=[caption] * samples,
                labels=torch.zeros(samples, dtype=torch.long),
                frames=torch.empty(samples, *pixels),
                noise=torch.empty(samples, *shapes[number]),
                level=torch.empty(samples),
                encoded=encoded,
                states=text_shape and torch.empty(samples, *text_shape),
                mask=text_shape and torch.empty(samples, text_shape[0], dtype=torch.bool),
            )
        )

    loads = tuple(
        Load(
            f"data.{number} ({task.batches.names[number]})",
            stream.batch_size,
            stream.weight,
            sizes[number],
            _tokens(task.modules, shapes[number][1:]),
        )
        for number, stream in enumerate(recipe.data)
    )
    return Shell(
        task.modules,
        frozen,
        loads,
        sequence_lengths(task, recipe),
        loss,
        recipe.precision,
        mode,
        recipe.compile != "none",
    )


def preset_shell(
    preset: str,
    pixels: Size,
    latents: Size,
    *,
    batch_size: int,
    text_tokens: int,
    precision: str,
) -> Shell:
    """The step of a fresh denoiser on latents and text states that were made before.

    Args:
        preset: a name that `models.build` knows.
        pixels: frames, height and width, for the record.
        latents: what the model takes of them; the same without a VAE.
        batch_size: samples of a step, over all processes.
        text_tokens: length of the text states, for models that read text.
        precision: "float32" or "bfloat16".

    Raises:
        ValueError: no such preset, or the model does not take the size.
    """
    with torch.device("meta"):
        model: Any = build(preset)
    config, mode = model.config, FakeTensorMode()
    with mode:
        _fill([model.train()])

    def loss(_: int, samples: int) -> Tensor:
        conditions = {}
        if config["text_dim"] is not None:
            states = torch.empty(samples, text_tokens, config["text_dim"])
            mask = torch.empty(samples, text_tokens, dtype=torch.bool)
            conditions = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        noisy = torch.empty(samples, config["in_channels"], *latents)
        prediction = model(noisy, torch.empty(samples), **conditions).sample
        return (prediction.float() - torch.empty_like(noisy)).square().flatten(1).mean(1).mean()

    modules = nn.ModuleDict({"unet" if preset in UNET_PRESETS else "transformer": model})
    load = Load("a batch", batch_size, 1.0, pixels, _tokens(modules, latents))
    return Shell(modules, {}, (load,), {load.name: load.tokens}, loss, precision, mode)


class _AsOnCuda(TorchFunctionMode):
    """Tensors say that they are on a CUDA device, for layers that choose their form by that."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        if func == torch.Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return False
        return func(*args, **(kwargs or {}))


@contextmanager
def _forms_of_cuda(models: Iterable[nn.Module]) -> Iterator[None]:
    """Repeated blocks run as on CUDA; each by itself, since a backward forgets function modes."""
    blocks: list[Any] = [
        part
        for model in models
        for part in model.modules()
        if type(part).__name__ in (getattr(model, "_repeated_blocks", None) or ())
    ]
    for block in blocks:
        block.forward = partial(_on_cuda, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _on_cuda(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _AsOnCuda():
        return forward(*args, **kwargs)


def _stored_text(source: Source, length: int) -> tuple[int, int] | None:
    """Length and width of the states of the longest captions, if a source has them encoded."""
    if source.cache is None or source.cache.encoding.text is None:
        return None
    _, step, width = source.cache.text([""])[0].shape
    return -(-length // step) * step, width


def _frozen(task: Task) -> dict[str, nn.Module]:
    """The modules that a task runs and does not train."""
    parts: dict[str, nn.Module | None] = {}
    if isinstance(task, DiffusionTask):
        encoder = None if task.text is None else task.text.encoder
        parts = {"text_encoder": encoder, "vae": task.vae}
    elif isinstance(task, VAETask):
        parts = {"lpips": task.perceptual}
    return {
        name: part for name, part in parts.items() if part is not None and name not in task.modules
    }


def _fill(modules: Iterable[nn.Module]) -> None:
    """Give modules fake tensors on the CPU in place of their own; what is tied stays tied."""
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for module in modules:
        for part in module.modules():
            for table in (part._parameters, part._buffers):
                for name, old in table.items():
                    if old is None:
                        continue
                    if id(old) not in made:
                        new = torch.empty(old.shape, dtype=old.dtype, device=CPU)
                        is_parameter = isinstance(old, nn.Parameter)
                        new = nn.Parameter(new, old.requires_grad) if is_parameter else new
                        made[id(old)] = old, new
                    table[name] = made[id(old)][1]  # type: ignore[assignment]


def _tokens(modules: nn.ModuleDict, latents: Sequence[int]) -> int:
    """Tokens of latents (frames, rows, columns) in the denoiser; of other models, their number."""
    frames, rows, columns = latents
    for module in modules.children():
        if isinstance(module, HTHTransformer):
            return math.prod(token_grid(module.config, (frames, rows, columns)))
    return math.prod(latents)
