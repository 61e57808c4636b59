"""SelfAttentionMixer and LinearAttentionMixer: their definitions and the laws they obey."""

import pytest
import torch
from torch import Tensor, nn

from statefilm.mixers import LinearAttentionMixer, SelfAttentionMixer
from statefilm.mixers.attention import FEW_KEYS, attend, direct_attention
from statefilm.mixers.rope import axis_pairs, rotary_angles, rotate

DIM, HEAD_DIM, LENGTH = 32, 16, 30
GRID = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, LENGTH, DIM, generator=torch.Generator().manual_seed(1))


def attention(**options) -> SelfAttentionMixer:
    torch.manual_seed(0)
    return SelfAttentionMixer(DIM, head_dim=HEAD_DIM, **options)


def projected(mixer: nn.Module, tokens: Tensor, parts: int) -> list[Tensor]:
    """What in_proj gives, in equal parts, per head: [batch, heads, length, head_dim] each."""
    return [
        part.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        for part in mixer.in_proj(tokens).chunk(parts, dim=-1)
    ]


def rms_normalised(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("qk_norm", [True, False])
def test_attention_equals_its_definition(tokens, qk_norm):
    mixer = attention(qk_norm=qk_norm)
    q, k, v = projected(mixer, tokens, 3)
    if qk_norm:
        q, k = rms_normalised(q), rms_normalised(k)
    weights = (q @ k.mT / HEAD_DIM**0.5).softmax(-1)
    expected = mixer.out_proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(tokens), expected, rtol=1e-4, atol=1e-5)


def test_linear_attention_equals_its_definition(tokens):
    torch.manual_seed(0)
    mixer = LinearAttentionMixer(DIM, head_dim=HEAD_DIM)
    q, k, v, _ = projected(mixer, tokens, 4)
    q, k = (1 + nn.functional.elu(rms_normalised(t)) for t in (q, k))
    weights = q @ k.mT
    weights = weights / weights.sum(-1, keepdim=True)
    assert (weights > 0).all()
    y = (weights @ v).transpose(1, 2).flatten(2)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    gate = nn.functional.silu(mixer.in_proj(tokens).chunk(4, dim=-1)[3])
    torch.testing.assert_close(mixer(tokens), mixer.out_proj(y * gate), rtol=1e-4, atol=1e-5)


def test_linear_attention_makes_no_matrix_of_all_pairs():
    mixer = LinearAttentionMixer(8, head_dim=8)
    length = 4096
    saved = []

    def record(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        mixer(torch.randn(1, length, 8)).sum().backward()
    assert max(saved) <= 4 * 8 * length


@pytest.mark.parametrize(
    "mixer", [attention(), LinearAttentionMixer(DIM, head_dim=HEAD_DIM)], ids=lambda m: type(m)
)
def test_without_positions_a_permutation_passes_through(mixer, tokens):
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(mixer(tokens[:, order]), mixer(tokens)[:, order])


@pytest.mark.parametrize("rope", ["2d", "3d"])
def test_rope_follows_the_tokens_through_any_scan(tokens, rope):
    mixer = attention(rope=rope)
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(2))
    found = mixer(tokens[:, order], positions=GRID[order])
    torch.testing.assert_close(found, mixer(tokens, positions=GRID)[:, order])


@pytest.mark.parametrize("rope", ["2d", "3d"])
def test_rope_depends_on_differences_of_positions_alone(tokens, rope):
    mixer = attention(rope=rope)
    shifted = GRID + torch.tensor([3, 7, 11])
    found, expected = mixer(tokens, positions=shifted), mixer(tokens, positions=GRID)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rope", "axes_seen"), [("2d", (1, 2)), ("3d", (0, 1, 2))])
def test_rope_sees_its_axes_and_no_other(tokens, rope, axes_seen):
    mixer = attention(rope=rope)
    expected = mixer(tokens, positions=GRID)
    for axis in range(3):
        stretched = GRID.clone()
        stretched[:, axis] *= 3
        same = torch.equal(mixer(tokens, positions=stretched), expected)
        assert same == (axis not in axes_seen)


def test_rotation_keeps_lengths_and_inner_products_of_equal_positions():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, LENGTH, HEAD_DIM, generator=generator)
    angles = rotary_angles(GRID, HEAD_DIM, (0, 1, 2))
    torch.testing.assert_close(
        (rotate(q, angles) * rotate(k, angles)).sum(-1), (q * k).sum(-1), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(rotate(q[:1], torch.zeros_like(angles[:1])), q[:1])


def test_angles_are_exact_at_far_positions_in_bfloat16():
    far = torch.tensor([[0, 0, 0], [0, 1000, 2047]])
    angles = rotary_angles(far, HEAD_DIM, (1, 2))
    assert angles.dtype == torch.float32
    assert angles[1, 0] == 1000
    assert angles[1, HEAD_DIM // 4] == 2047
    assert rotate(torch.ones(2, HEAD_DIM, dtype=torch.bfloat16), angles).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("head_dim", "axes", "pairs"), [(64, 2, [16, 16]), (64, 3, [12, 10, 10]), (6, 3, [1, 1, 1])]
)
def test_every_feature_pair_belongs_to_an_axis(head_dim, axes, pairs):
    assert axis_pairs(head_dim, axes) == pairs


@pytest.mark.parametrize("positions", [None, GRID[:-1], GRID[:, :2]], ids=["none", "short", "flat"])
def test_rope_without_fitting_positions_is_an_error(tokens, positions):
    with pytest.raises(ValueError, match=r"rope needs positions of shape \(30, 3\)"):
        attention(rope="3d")(tokens, positions=positions)


def test_qk_norm_bounds_the_logits_whatever_the_scale(tokens):
    mixer = attention()
    before = mixer(tokens)
    with torch.no_grad():
        mixer.in_proj.weight[: 2 * DIM] *= 1000
    torch.testing.assert_close(mixer(tokens), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keys", [1, 5, FEW_KEYS, FEW_KEYS + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
def test_direct_attention_is_the_fused_one(keys, dtype, tolerance, masked):
    drawn = torch.Generator().manual_seed(0)
    lengths = (7, keys, keys)
    q, k, v = (torch.randn(2, 3, n, HEAD_DIM, generator=drawn, dtype=dtype) for n in lengths)
    mask = torch.rand(2, 1, 1, keys, generator=drawn) < 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    results = []
    for form in (torch.nn.functional.scaled_dot_product_attention, direct_attention, attend):
        inputs = [t.clone().requires_grad_() for t in (q, k, v)]
        y = form(*inputs, mask)
        results.append((y, *torch.autograd.grad(y, inputs, torch.ones_like(y))))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=tolerance, atol=tolerance)
