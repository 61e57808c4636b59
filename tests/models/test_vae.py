"""VAE wiring at toy size: shapes, statistics, families, tiles."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan

from statefilm.errors import UsageError
from statefilm.models.vae import (
    VAE_PRESETS,
    build_vae,
    compression,
    decode_latents,
    encode_frames,
    latent_shape,
    load_vae,
    set_tiling,
)
from statefilm.models.video_vae import AutoencoderKLVideo, inflate


def toy_magvit(**overrides):
    torch.manual_seed(0)
    fields = {"block_out_channels": (32, 32, 32), "latent_channels": 4} | overrides
    return build_vae("world_vae", **fields).eval()


def toy_wan():
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.5, -0.5, 1.0, 0.0],
        latents_std=[2.0, 1.0, 0.5, 4.0],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    ).eval()


def toy_image_vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        shift_factor=0.25,
        scaling_factor=2.0,
    ).eval()


VAES = {"magvit": toy_magvit, "wan": toy_wan, "image": toy_image_vae}


def frames_of(count, size=16, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, count, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize("num_frames", [1, 5])
@torch.no_grad()
def test_shapes_follow_the_arithmetic(name, num_frames):
    vae = VAES[name]()
    latents = encode_frames(vae, frames_of(num_frames))
    assert tuple(latents.shape[1:]) == latent_shape(vae, num_frames, 16, 16)
    assert decode_latents(vae, latents).shape == (2, 3, num_frames, 16, 16)


@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_decoding_undoes_the_normalisation_of_encoding(name):
    vae = VAES[name]()
    frames = frames_of(5)
    latents = encode_frames(vae, frames)
    if name == "image":
        raw = torch.stack([vae.encode(frames[:, :, t]).latent_dist.mode() for t in range(5)], 2)
        expected = torch.stack([vae.decode(raw[:, :, t]).sample for t in range(5)], 2)
        torch.testing.assert_close(latents, (raw - 0.25) * 2.0, atol=1e-5, rtol=1e-4)
    else:
        raw = vae.encode(frames).latent_dist.mode()
        expected = vae.decode(raw).sample
    if name == "wan":
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        torch.testing.assert_close(latents, (raw - mean) / std, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decode_latents(vae, latents), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_first_frame_of_a_clip_is_encoded_as_the_image_it_is():
    vae, clip = toy_magvit(), frames_of(5)
    torch.testing.assert_close(
        encode_frames(vae, clip)[:, :, :1], encode_frames(vae, clip[:, :, :1]), atol=1e-5, rtol=1e-4
    )


def test_without_a_vae_pixels_pass_through():
    frames = frames_of(3)
    assert encode_frames(None, frames) is frames
    assert decode_latents(None, frames) is frames
    assert latent_shape(None, 3, 16, 24) == (3, 3, 16, 24)
    assert compression(None) == (1, 1)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((4, 16, 16), "num_frames 4 is not 1 + k * 2: the nearest valid are 3 and 5"),
        ((1, 18, 16), "height 18 is not a multiple of 4: the nearest valid are 16 and 20"),
        ((1, 16, 2), "width 2 is not a multiple of 4: the nearest valid is 4"),
        ((0, 16, 16), "num_frames 0 is not 1 + k * 2: the nearest valid is 1"),
    ],
)
def test_wrong_sizes_name_the_nearest_valid(size, message):
    with pytest.raises(UsageError, match=message.replace("+", r"\+").replace("*", r"\*")):
        latent_shape(toy_magvit(), *size)


def test_presets_match_what_is_known_of_the_system():
    with torch.device("meta"):
        full, small = build_vae("magvit"), build_vae("world_vae")
    assert compression(full) == (4, 8)
    assert latent_shape(full, 129, 360, 640) == (16, 33, 45, 80)
    assert compression(small) == (2, 4)
    assert sum(p.numel() for p in small.parameters()) < 4e6
    assert all(c % 32 == 0 for p in VAE_PRESETS.values() for c in p["block_out_channels"])
    with pytest.raises(UsageError, match="did you mean 'world_vae'"):
        build_vae("word_vae")
    with pytest.raises(UsageError, match="did you mean 'latent_channels'"):
        build_vae("world_vae", latent_chanels=4)


@torch.no_grad()
def test_tiles_cover_the_frame():
    vae = toy_magvit()
    latents = torch.randn(1, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = decode_latents(vae, latents)
    set_tiling(vae, True)
    vae.tile_sample_min_height = vae.tile_sample_min_width = 48
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = 32
    tiled = decode_latents(vae, latents)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    set_tiling(vae, False)
    assert torch.equal(decode_latents(vae, latents), whole)
    set_tiling(None, True)


@torch.no_grad()
def test_load_reads_any_autoencoder_kl_and_nothing_else(tmp_path):
    for name, make in VAES.items():
        vae = make()
        vae.save_pretrained(tmp_path / name)
        loaded = load_vae(tmp_path / name)
        assert type(loaded) is type(vae)
        latents = encode_frames(vae, frames_of(1))
        torch.testing.assert_close(encode_frames(loaded, frames_of(1)), latents)
    with pytest.raises(FileNotFoundError, match="without config"):
        load_vae(tmp_path / "absent")
    config = tmp_path / "wan" / "config.json"
    config.write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(UsageError, match="UNet2DModel"):
        load_vae(tmp_path / "wan")
    config.write_text("[")
    with pytest.raises(UsageError, match=r"config\.json: damaged JSON"):
        load_vae(tmp_path / "wan")
    (weights,) = (tmp_path / "image").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(UsageError, match="truncated"):
        load_vae(tmp_path / "image")


INFLATABLE = {
    "attention": {"shift_factor": 0.25, "scaling_factor": 2.0},
    "plain": {"mid_block_add_attention": False, "layers_per_block": 2},
    "no_quant_conv": {"use_quant_conv": False, "use_post_quant_conv": False},
}


def image_vae(**fields):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        **fields,
    ).eval()
    for parameter in vae.parameters():  # norms and biases start as ones and zeros
        parameter.data += 0.05 * torch.randn_like(parameter)
    return vae


@pytest.mark.parametrize("fields", INFLATABLE.values(), ids=INFLATABLE)
@torch.no_grad()
def test_an_inflated_vae_treats_images_as_the_image_vae_does(fields):
    before = image_vae(**fields)
    after, frames = inflate(before), frames_of(5)
    assert compression(after) == (2, 4)
    wanted = encode_frames(before, frames)
    assert wanted.std() > 0.01
    torch.testing.assert_close(
        encode_frames(after, frames[:, :, :1]), wanted[:, :, :1], atol=1e-5, rtol=0
    )
    # Every second frame of a clip, each shown twice but the first.
    latents = encode_frames(after, frames)
    torch.testing.assert_close(latents, wanted[:, :, ::2], atol=1e-5, rtol=0)
    shown = decode_latents(before, latents)[:, :, [0, 1, 1, 2, 2]]
    torch.testing.assert_close(decode_latents(after, latents), shown, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_inflated_vae_is_saved_and_loaded(tmp_path):
    vae = inflate(image_vae(shift_factor=0.25))
    vae.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    assert type(loaded) is AutoencoderKLVideo
    torch.testing.assert_close(
        encode_frames(loaded, frames_of(3)), encode_frames(vae, frames_of(3)), atol=0, rtol=0
    )


def test_image_vaes_that_would_come_out_otherwise_are_refused():
    blocks = {"down_block_types": ("AttnDownEncoderBlock2D",) + ("DownEncoderBlock2D",) * 2}
    wide = {
        "block_out_channels": (4,) * 5,
        "down_block_types": ("DownEncoderBlock2D",) * 5,
        "up_block_types": ("UpDecoderBlock2D",) * 5,
    }
    small = {"block_out_channels": (4,) * 3, "norm_num_groups": 4}
    common = {"up_block_types": ("UpDecoderBlock2D",) * 3, **small}
    with pytest.raises(UsageError, match="AttnDownEncoderBlock2D cannot be inflated"):
        inflate(AutoencoderKL(**common, **blocks))
    with pytest.raises(UsageError, match="5 sizes cannot be inflated: valid are 2 to 4"):
        inflate(AutoencoderKL(**wide, norm_num_groups=4))
    with pytest.raises(UsageError, match="latents_mean"):
        inflate(image_vae(latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4))
