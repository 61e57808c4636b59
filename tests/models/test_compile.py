"""torch.compile: one graph for the whole model, and few graphs for many sizes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from statefilm.models import HTHTransformer, hybrid_plan, to_video

SIZES = [(3, 8, 12), (5, 12, 16), (9, 16, 20)]


@pytest.fixture(params=[{}, {"text_prefix": 8, "registers": 3, "cross_attention": "none"}], ids=str)
def model(request):
    torch._dynamo.reset()
    yield HTHTransformer(
        in_channels=3,
        patch_size=(1, 2, 2),
        dim=32,
        text_dim=12,
        head_dim=16,
        plan=to_video(hybrid_plan(1, 4)),
        mixer_options={"hydra": {"state_dim": 8, "head_dim": 16}},
        **request.param,
    ).requires_grad_(False)
    torch._dynamo.reset()


def inputs(frames, height, width):
    x = torch.randn(2, 3, frames, height, width)
    mask = torch.ones(2, 5, dtype=torch.bool)
    return x, torch.tensor([700.0, 30.0]), torch.randn(2, 5, 12), mask


def test_the_model_has_no_graph_break(model):
    found = torch._dynamo.explain(model)(*inputs(*SIZES[0]))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


def test_three_sizes_compile_the_model_twice(model):
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for size in SIZES:
        compiled(*inputs(*size))
    assert counter.frame_count == 2


def test_three_sizes_compile_each_kind_of_block_twice_whatever_its_scan(model):
    assert len({entry["video_scan"] for entry in model.config.plan}) > 2
    counter = CompileCounter()
    for block in model.blocks:
        block.compile(backend=counter)
    for size in SIZES:
        model(*inputs(*size))
    assert counter.frame_count == 2 * len({entry["mixer"] for entry in model.config.plan})
