"""Turn the pipeline of a run into a bundled model: bfloat16 weights, small enough for the package.

python scripts/bundle.py runs/world_t2v world-64 [default_steps=20 default_guidance_scale=3.0]
"""

import sys
from pathlib import Path

import yaml

import statefilm
from statefilm.errors import suggest
from statefilm.pipelines import load_pipeline


def bundle(run: str, name: str, defaults: dict[str, object]) -> Path:
    """Write `bundled/<name>` from a run folder; what decays stays float32."""
    pipe = load_pipeline(run, "bfloat16", "cpu")
    for field in defaults:
        if field not in pipe.config:
            raise suggest(field, [f for f in pipe.config if f.startswith("default_")], "default")
    pipe.register_to_config(**defaults)
    folder = Path(statefilm.__file__).parent / "bundled" / name
    pipe.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    changes = dict(pair.split("=", 1) for pair in sys.argv[3:])
    target = bundle(sys.argv[1], sys.argv[2], {k: yaml.safe_load(v) for k, v in changes.items()})
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")
