"""The temporal attentions against their definitions, and the laws of the relative bias."""

import pytest
import torch
from torch import Tensor, nn

from statefilm.mixers import (
    TemporalAttentionMixer,
    TemporalLinearAttentionMixer,
    build_mixer,
)
from statefilm.mixers.temporal_attention import relative_bucket

DIM, HEADS, HEAD_DIM = 12, 3, 8


def softmax_mixer(**options) -> TemporalAttentionMixer:
    """With a bias that is not zero, as it is after training."""
    torch.manual_seed(0)
    mixer = TemporalAttentionMixer(DIM, HEADS, HEAD_DIM, **options)
    if mixer.relative_bias is not None:
        nn.init.normal_(mixer.relative_bias)
    return mixer


def linear_mixer() -> TemporalLinearAttentionMixer:
    torch.manual_seed(0)
    return TemporalLinearAttentionMixer(DIM, HEADS, HEAD_DIM)


def tokens_of(length: int) -> Tensor:
    return torch.randn(2, length, DIM, generator=torch.Generator().manual_seed(1))


def by_head(mixer: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Queries, keys and values, [batch, heads, length, head_dim] each."""
    return [
        part.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
        for part in mixer.in_proj(tokens).chunk(3, dim=-1)
    ]


def out(mixer: nn.Module, y: Tensor) -> Tensor:
    return mixer.out_proj(y.transpose(1, 2).flatten(2))


def turned(x: Tensor) -> Tensor:
    """Feature i and i + head_dim / 2 as a complex number, turned by its position and frequency."""
    half = HEAD_DIM // 2
    z = torch.complex(x[..., :half], x[..., half:])
    frequencies = 10_000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[2])[:, None] * frequencies
    z = z * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


def softmax_definition(mixer: TemporalAttentionMixer, tokens: Tensor) -> Tensor:
    q, k, v = by_head(mixer, tokens)
    if mixer.rotary:
        q, k = turned(q), turned(k)
    scores = q @ k.mT / HEAD_DIM**0.5
    if mixer.relative_bias is not None:
        frames = range(tokens.shape[1])
        distances = torch.tensor([[key - query for key in frames] for query in frames])
        buckets = relative_bucket(distances, mixer.buckets, mixer.max_distance)
        scores = scores + torch.stack([table[buckets] for table in mixer.relative_bias.T])
    return out(mixer, scores.softmax(-1) @ v)


# Beyond 128 keys attention takes another form.
@pytest.mark.parametrize("length", [1, 2, 33, 150])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("relative_bias", [True, False])
def test_attention_equals_its_definition(length, rotary, relative_bias):
    mixer = softmax_mixer(rotary=rotary, relative_bias=relative_bias)
    tokens = tokens_of(length)

    def outputs_and_gradients(y: Tensor) -> tuple[Tensor, ...]:
        mix = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        return y, *torch.autograd.grad((y * mix).sum(), list(mixer.parameters()))

    found = outputs_and_gradients(mixer(tokens))
    expected = outputs_and_gradients(softmax_definition(mixer, tokens))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_bfloat16_stays_near_float32_where_keys_are_many():
    mixer, tokens = softmax_mixer(), tokens_of(150).bfloat16()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(parameter.bfloat16())
        expected = mixer(tokens.float())
        found = mixer.bfloat16()(tokens)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 32), (32, 128), (8, 20), (4, 2)])
def test_buckets_are_those_of_t5(buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(
        distances, bidirectional=True, num_buckets=buckets, max_distance=max_distance
    )
    assert torch.equal(relative_bucket(distances, buckets, max_distance), expected)


def test_near_distances_have_a_bucket_each_and_far_ones_share_the_last():
    found = relative_bucket(torch.tensor([0, -1, -7, -8, -9, -32, -999, 1, 7, 32, 999]), 32, 32)
    assert found.tolist() == [0, 1, 7, 8, 8, 15, 15, 17, 23, 31, 31]


def test_the_bias_tells_earlier_from_later():
    mixer, mirrored = softmax_mixer(rotary=False), softmax_mixer(rotary=False)
    tokens = tokens_of(60)
    with torch.no_grad():
        sides = mirrored.relative_bias[1:16].clone(), mirrored.relative_bias[17:].clone()
        mirrored.relative_bias[17:], mirrored.relative_bias[1:16] = sides
    expected = mixer(tokens)
    torch.testing.assert_close(mirrored(tokens.flip(1)).flip(1), expected)
    assert (mirrored(tokens) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("mixer", "sees_order"),
    [
        (softmax_mixer(rotary=False, relative_bias=False), False),
        (softmax_mixer(rotary=True, relative_bias=False), True),
        (softmax_mixer(rotary=False, relative_bias=True), True),
        (linear_mixer(), False),
    ],
    ids=["plain", "rotary", "bias", "linear"],
)
def test_only_positions_tell_the_order(mixer, sees_order):
    tokens = tokens_of(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    difference = (mixer(tokens[:, order]) - mixer(tokens)[:, order]).abs().max()
    assert (difference > 1e-3) == sees_order
    assert (difference < 1e-5) != sees_order


def test_linear_attention_equals_its_definition():
    mixer, tokens = linear_mixer(), 3 * tokens_of(40)
    q, k, v = by_head(mixer, tokens)
    weights = q.softmax(-1) @ k.softmax(-2).mT
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 40))
    torch.testing.assert_close(mixer(tokens), out(mixer, weights @ v), rtol=1e-4, atol=1e-5)


def test_linear_attention_makes_no_matrix_of_all_pairs():
    mixer, length, saved = linear_mixer(), 4096, []

    def record(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        mixer(torch.randn(1, length, DIM)).sum().backward()
    assert max(saved) <= 3 * HEADS * HEAD_DIM * length


@pytest.mark.parametrize("name", ["temporal_attention", "temporal_linear_attention"])
def test_inner_width_is_that_of_the_heads(name):
    with torch.device("meta"):
        mixer = build_mixer(name, 112)
    expected = 4 * 112 * 8 * 64 + (32 * 8 if name == "temporal_attention" else 0)
    assert sum(p.numel() for p in mixer.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("temporal_attention", {"heads": 0}, "heads 0 is below 1"),
        ("temporal_linear_attention", {"head_dim": 0}, "head_dim 0 is below 1"),
        ("temporal_attention", {"head_dim": 7}, "head_dim 7 cannot be rotated"),
        ("temporal_attention", {"buckets": 6}, "buckets 6 is not a multiple of 4"),
        ("temporal_attention", {"buckets": 0}, "buckets 0 is not a multiple of 4"),
        ("temporal_attention", {"max_distance": 8}, "max_distance 8 is not above 8"),
    ],
    ids=str,
)
def test_bad_options_are_one_line_that_names_them(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_mixer(name, DIM, **options)
    assert "\n" not in str(error.value)
