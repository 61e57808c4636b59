"""Turn the pipeline of a run into a bundled model: bfloat16 weights, small enough for the package.

python scripts/bundle.py runs/world_joint world-64 [shift=3 default_steps=20 ...]
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

import statefilm
from statefilm.errors import suggest
from statefilm.pipelines import load_pipeline
from statefilm.pipelines.sampling import make_scheduler


def bundle(run: str, name: str, defaults: dict[str, Any]) -> Path:
    """Write `bundled/<name>` from a run folder; what decays stays float32.

    `defaults` changes the pipeline's own `default_...` fields; "shift" and "sampler" are its
    scheduler's.
    """
    pipe = load_pipeline(run, "bfloat16", "cpu")
    sampler, shift = defaults.pop("sampler", None), defaults.pop("shift", None)
    pipe.scheduler = make_scheduler(pipe.scheduler, sampler, 1, shift)
    for field in defaults:
        if field not in pipe.config:
            raise suggest(field, [f for f in pipe.config if f.startswith("default_")], "default")
    pipe.register_to_config(**defaults)
    folder = Path(statefilm.__file__).parent / "bundled" / name
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.json"):
        # Where the run lay is nobody's business.
        fields = json.loads(file.read_text("utf-8"))
        if isinstance(fields, dict) and fields.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", "utf-8")
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    changes = dict(pair.split("=", 1) for pair in sys.argv[3:])
    target = bundle(sys.argv[1], sys.argv[2], {k: yaml.safe_load(v) for k, v in changes.items()})
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")
