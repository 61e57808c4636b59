"""What the recipes of hth_5b combine: compiled blocks in bfloat16 whose parameters are sharded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from statefilm.training.tensor_files import TensorFiles

LAUNCH = Path(__file__).with_name("launch.py")
CHANGES = [
    *("precision=bfloat16", "gradient_checkpointing=true", "checkpoint.background=true"),
    *("parallel={replicate: 1, shard: null}", "text.train=false", "optimizer.name=adamw"),
    *("steps=2", "samples.every_steps=2", "model.overrides.conditioning=add"),
    # One kind of block, as each takes seconds.
    "model.overrides.plan=[{mixer: hydra, image_scan: H, video_scan: H}]",
]


def test_sharded_blocks_compile_to_one_graph_and_train_as_others_do(tmp_path):
    runs = [
        ["smoke_world_t2i", str(tmp_path / kind), [*CHANGES, f"compile={kind}"], "auto"]
        for kind in ("none", "blocks")
    ]
    job = {"processes": 2, "runs": runs, "graphs": str(tmp_path / "graphs")}
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    subprocess.run(
        [sys.executable, str(LAUNCH), str(tmp_path / "jobs.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    assert list(tmp_path.glob("*.errors")) == []
    assert (tmp_path / "graphs").read_text() == "1"
    plain, compiled = (
        list(map(json.loads, (tmp_path / kind / "logs/metrics.jsonl").read_text().splitlines()))
        for kind in ("none", "blocks")
    )
    assert [line["step"] for line in compiled] == [1, 2]
    for here, there in zip(compiled, plain, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-3)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-2)
    saved, expected = (
        TensorFiles(tmp_path / kind / "checkpoints" / "step-00000002", "model")
        for kind in ("blocks", "none")
    )
    assert saved.keys() == expected.keys()
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    assert (tmp_path / "blocks" / "samples" / "step-00000002.png").is_file()
