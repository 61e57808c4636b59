"""LPIPS with made weights: the written formula, its laws, and files that are refused."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from statefilm.errors import UsageError
from statefilm.models.perceptual import DEVIATION, MEAN, STAGES, PerceptualDistance

WIDTHS = (4, 4, 6, 8, 8)


def made_weights():
    """A state dict like that of `lpips.LPIPS(net="vgg")`, with few channels."""
    drawn = torch.Generator().manual_seed(0)
    tensors, inputs = {}, 3
    for number, (places, width) in enumerate(zip(STAGES, WIDTHS, strict=True)):
        for place in places:
            name = f"net.slice{number + 1}.{place}"
            tensors[f"{name}.weight"] = torch.randn(width, inputs, 3, 3, generator=drawn) / 3
            tensors[f"{name}.bias"] = torch.randn(width, generator=drawn) / 10
            inputs = width
        tensors[f"lin{number}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=drawn)
    return tensors


def images(seed):
    return torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features(tensors, image):
    """The feature maps of one image [3, H, W], layer by layer as VGG-16 lists them."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    hidden = ((image - mean) / deviation)[None]
    for number, places in enumerate(STAGES):
        hidden = hidden if number == 0 else F.max_pool2d(hidden, 2, 2)
        for place in places:
            name = f"net.slice{number + 1}.{place}"
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            hidden = F.conv2d(hidden, weight, bias, padding=1).relu()
        yield hidden[0]


def test_it_is_the_weighted_distance_of_unit_features():
    tensors = made_weights()
    one, other = images(0), images(1)
    for index, found in enumerate(PerceptualDistance(tensors)(one, other)):
        wanted = 0.0
        pairs = zip(features(tensors, one[index]), features(tensors, other[index]), strict=True)
        for number, pair in enumerate(pairs):
            a, b = (
                map_ / map_.square().sum(0, keepdim=True).sqrt().clamp(min=1e-10) for map_ in pair
            )
            weights = tensors[f"lin{number}.model.1.weight"].view(-1)
            wanted += torch.einsum("c,chw->hw", weights, (a - b) ** 2).mean()
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_it_is_a_frozen_symmetric_distance_with_gradients_to_the_images():
    distance = PerceptualDistance(made_weights())
    one, other = images(0).requires_grad_(), images(1)
    there, back = distance(one, other), distance(other, one)
    torch.testing.assert_close(there, back)
    assert (there > 0.01).all() and (distance(other, other) == 0).all()
    there.sum().backward()
    assert one.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_weights_come_from_a_file_that_has_them_all(tmp_path):
    tensors, path = made_weights(), tmp_path / "lpips.safetensors"
    save_file({**tensors, "scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, path)
    loaded = PerceptualDistance.from_file(path)
    wanted = PerceptualDistance(tensors)(images(0), images(1))
    torch.testing.assert_close(loaded(images(0), images(1)), wanted)

    del tensors["net.slice3.12.weight"]
    save_file(tensors, path)
    with pytest.raises(UsageError, match=r"lpips\.safetensors.*'net\.slice3\.12\.weight'"):
        PerceptualDistance.from_file(path)
    save_file({**made_weights(), "net.slice1.0.bias": torch.zeros(7)}, path)
    with pytest.raises(UsageError, match=r"lpips\.safetensors holds no LPIPS weights"):
        PerceptualDistance.from_file(path)
    with pytest.raises(UsageError, match="nowhere"):
        PerceptualDistance.from_file(tmp_path / "nowhere.safetensors")
