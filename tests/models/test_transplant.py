"""An HTH that begins with the weights of a DiT."""

import pytest
import torch

from statefilm.errors import UsageError
from statefilm.models import build
from statefilm.models.plan import attention_plan, hybrid_plan
from statefilm.models.transplant import grown, transplant

SMALL = {"dim": 64, "text_dim": 32, "mixer_options": {"hydra": {"expand": 1, "state_dim": 16}}}


def dit(ff_dim=96, **fields):
    torch.manual_seed(1)
    return build("dit_tiny", **{**SMALL, "ff_dim": ff_dim, "plan": attention_plan(11), **fields})


def hth(**fields):
    torch.manual_seed(2)
    return build("hth_tiny", **{**SMALL, "ff_dim": 64, "plan": hybrid_plan(1), **fields})


def test_all_that_both_have_is_copied_and_the_other_mixers_stay_fresh():
    source, target = dit(), hth()
    before = {name: p.clone() for name, p in target.named_parameters()}
    fresh = transplant(source, target)
    mixers = {f"blocks.{number}.mixer." for number in range(10)}
    assert {name[: name.index("mixer.") + 6] for name in fresh} == mixers
    given = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in fresh:
            assert torch.equal(parameter, before[name])
        elif "feed_forward" not in name:
            assert torch.equal(parameter, given[name])


def test_of_a_wider_feed_forward_the_largest_units_remain():
    source, target = dit(), hth()
    layers = source.blocks[3].feed_forward
    with torch.no_grad():
        for weight in (layers.linear_in.weight, layers.linear_in.bias, layers.linear_out.weight.T):
            weight[10:42] = 0
    transplant(source, target)
    kept = [*range(10), *range(42, 96)]
    ours = target.blocks[3].feed_forward
    assert torch.equal(ours.linear_in.weight, layers.linear_in.weight[kept])
    assert torch.equal(ours.linear_out.weight, layers.linear_out.weight[:, kept])
    x = torch.randn(5, 64)
    assert torch.allclose(ours(x), layers(x), atol=1e-5)


def test_a_narrower_feed_forward_is_left_as_it_is():
    fresh = transplant(dit(ff_dim=32), hth())
    assert {
        "blocks.0.feed_forward.linear_in.weight",
        "blocks.0.feed_forward.linear_out.weight",
    } <= {*fresh}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": 128}, "its dim is 128, that of the preset 64"),
        ({"text_dim": 48}, "text_dim is 48"),
        ({"plan": attention_plan(4)}, "4 blocks, the preset 11"),
    ],
)
def test_models_of_another_size_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        transplant(dit(**fields), hth())


@pytest.mark.parametrize("conditioning", ["add", "adaln_single"])
def test_new_blocks_change_nothing_at_first_and_then_learn(conditioning):
    source = hth(conditioning=conditioning, in_channels=3)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    clip = torch.randn(2, 3, 5, 16, 16)
    asked = {
        "timestep": torch.tensor([100.0, 700.0]),
        "encoder_hidden_states": torch.randn(2, 4, 32),
    }
    old = {id(parameter) for parameter in source.parameters()}
    before = source(clip, **asked).sample
    longer = grown(source, 3)
    assert len(longer.blocks) == len(longer.config.plan) == 14
    assert torch.equal(longer(clip, **asked).sample, before)
    fresh = {name for name, parameter in longer.named_parameters() if id(parameter) not in old}
    assert {name.split(".")[1] for name in fresh} == {"1", "6", "11"}
    longer(clip, **asked).sample.square().sum().backward()
    new = longer.blocks[1]
    assert new.feed_forward.linear_out.weight.grad.abs().sum() > 0


def test_more_new_blocks_than_blocks_are_refused():
    with pytest.raises(UsageError, match=r"model\.plan\.added: 12 added blocks do not fit"):
        grown(hth(), 12)
