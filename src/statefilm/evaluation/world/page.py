"""A page of results: a static HTML file that loads nothing, with figures and samples."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import torch
from PIL import Image

from statefilm.evaluation.world.results import SUBSETS, Metric, Results, Sample

FRAME_MS = 125  # of a clip's frame
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
  :root {
    color-scheme: light dark; --paper: light-dark(#fafaf8, #17181a);
    --ink: light-dark(#1b1c1e, #eceae6); --soft: light-dark(#5c5f66, #a3a6ad);
    --line: light-dark(#d5d5d0, #3a3c40); --bar: light-dark(#1d5fbf, #7db2ff);
    --floor: light-dark(#b3261e, #ff8a80);
  }
  body {
    margin: 2rem auto; max-width: 68rem; padding: 0 1rem;
    background: var(--paper); color: var(--ink); font: 1rem/1.45 system-ui, sans-serif;
  }
  h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
  .soft { color: var(--soft); }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: right; }
  th:first-child, td:first-child { text-align: left; }
  tr { border-bottom: 1px solid var(--line); }
  td.plot { width: 30%; padding-right: 0; }
  svg { display: block; width: 100%; height: 1rem; }
  .samples {
    display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 0.75rem;
  }
  figure { margin: 0; }
  img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; }
  figcaption { font-size: 0.85rem; line-height: 1.3; padding-top: 0.25rem; }
  pre { overflow-x: auto; font-size: 0.85rem; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="soft">The bar is the value, the line over it its 95 % interval, the red mark the floor:
the same images under shuffled prompts, or noise for the quality of clips. The oracle is the
renderer.</p>
$table
$samples
<h2>How it was made</h2>
<pre>$details</pre>
</body>
</html>
""")


def write_page(results: Results, folder: str | Path, title: str = "The checkable world") -> Path:
    """Write `index.html`: the figures as a table with bars, the best and worst samples by task.

    Pictures are inside the file, clips as animations; what comes from prompts is escaped.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = _PAGE.substitute(
        title=escape(title),
        table=_table(results),
        samples="\n".join(_samples(name, kept) for name, kept in results.samples.items() if kept),
        details=escape(json.dumps(results.details, indent=2)),
    )
    path = folder / "index.html"
    path.write_text(page, "utf-8")
    return path


def _table(results: Results) -> str:
    heads = ("figure", "value", "95 % interval", "n", "floor", "blank", "oracle", *SUBSETS, "")
    names = [name for name in results.metrics if not name.endswith(SUBSETS)]
    rows = [_row(results, name) for name in names]
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    return (
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + ("\n</tbody></table>")
    )


def _row(results: Results, name: str) -> str:
    metric = results.metrics[name]
    parts = [results.metrics.get(f"{name}.{subset}") for subset in SUBSETS]
    values = [
        f"{metric.value:.3f}",
        f"{metric.low:.3f} to {metric.high:.3f}",
        str(metric.n),
        f"{metric.floor:.3f}",
        _number(results.blank.get(name)),
        _number(results.oracle.get(name)),
        *(_number(None if part is None else part.value) for part in parts),
    ]
    cells = "".join(f"<td>{value}</td>" for value in values)
    return f'<tr><td>{escape(name)}</td>{cells}<td class="plot">{_bar(metric)}</td></tr>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bar(metric: Metric) -> str:
    """The value from 0 to 1 as a bar, its interval as a line, its floor as a mark."""
    value, low, high, floor = (
        100 * one for one in (metric.value, metric.low, metric.high, metric.floor)
    )
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="100" height="10" fill="var(--line)" opacity="0.4"/>'
        f'<rect width="{value:.1f}" height="10" fill="var(--bar)" opacity="0.55"/>'
        f'<rect x="{low:.1f}" y="4" width="{high - low:.1f}" height="2" fill="var(--ink)"/>'
        f'<rect x="{floor:.1f}" width="0.7" height="10" fill="var(--floor)"/></svg>'
    )


def _samples(name: str, samples: Sequence[Sample]) -> str:
    figures = "\n".join(map(_figure, samples))
    return f'<h2>{escape(name)}</h2>\n<div class="samples">\n{figures}\n</div>'


def _figure(sample: Sample) -> str:
    frames = sample.image[None] if sample.frames is None else sample.frames
    notes = [
        f"{label} {value:.2f}"
        for label, value in (("strict", sample.strict), ("soft", sample.soft))
        if value is not None
    ]
    if sample.seed is not None:
        notes.append(f"seed {sample.seed}")
    prompt = escape(sample.prompt)
    return (
        f'<figure><img src="{_data(frames)}" alt="{prompt}"><figcaption>{prompt}<br>'
        f'<span class="soft">{", ".join(notes)}</span></figcaption></figure>'
    )


def _data(frames: torch.Tensor) -> str:
    """Frames, uint8 [T, 3, H, W], as a picture or an animation inside an address."""
    images = [Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()) for frame in frames]
    file = io.BytesIO()
    clip = {"save_all": True, "append_images": images[1:], "duration": FRAME_MS, "loop": 0}
    images[0].save(file, "WEBP", lossless=True, **(clip if images[1:] else {}))
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
