"""`statefilm image`: prompts to PNG files."""

from __future__ import annotations

from statefilm.cli import options
from statefilm.cli.console import Console


def image(
    prompt: options.Prompt = None,
    prompts: options.Prompts = [],  # noqa: B006  (read by the parser only)
    prompts_file: options.PromptsFile = None,
    model: options.Model = options.DEFAULT_MODEL,
    negative_prompt: options.NegativePrompt = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    shift: options.Shift = None,
    seed: options.Seed = None,
    height: options.Height = None,
    width: options.Width = None,
    size: options.Size = None,
    num: options.Number = 1,
    batch_size: options.BatchSize = 1,
    grid: options.Grid = False,
    output: options.Output = None,
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    preview: options.Preview = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    compile: options.Compile = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    dry_run: options.DryRun = False,
) -> int:
    """Make images from text.

    They are written as PNG, with what made them inside: `statefilm meta` prints it.
    """
    from statefilm.cli.generate import generate
    from statefilm.cli.prompts import collect
    from statefilm.cli.request import Request, parse_size

    height, width = parse_size(size, height, width)
    request = Request(
        kind="image",
        model=model,
        prompts=collect(prompt, prompts, prompts_file),
        negative_prompt=negative_prompt,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        shift=shift,
        seed=seed,
        height=height,
        width=width,
        num=num,
        batch_size=batch_size,
        grid=grid,
        preview=preview,
        dtype=dtype,
        device=device,
        compile=compile,
        output=output,
        force=force,
        skip_existing=skip_existing,
        dry_run=dry_run,
    )
    return generate(request, Console(json=as_json, quiet=quiet))
