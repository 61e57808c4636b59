"""The VAE's task: its losses, its adversary, and image VAEs that go on with clips."""

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from statefilm import HTHPipeline
from statefilm.models.discriminator import PatchDiscriminator
from statefilm.models.perceptual import STAGES
from statefilm.models.vae import encode_frames, load_vae
from statefilm.models.video_vae import AutoencoderKLVideo
from statefilm.training import load_recipe
from statefilm.training.adversary import Adversary, balance
from statefilm.training.parallel import Ranks
from statefilm.training.recipe import Adversary as AdversaryConfig
from statefilm.training.tasks import build_task

from .conftest import metrics, tiny_recipe, train

CPU = torch.device("cpu")
ADVERSARY = "loss.adversary={channels: 16, layers: 1, start_step: %d}"


def tiny(*changes):
    narrow = "vae.overrides={block_out_channels: [8, 8], norm_num_groups: 4, latent_channels: 2}"
    return load_recipe("smoke_world_vae", ["samples.every_steps=0", narrow, *changes])


def task_of(recipe):
    return build_task(recipe, CPU, Ranks())


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters()}


@pytest.fixture
def image_vae(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    ).eval()
    vae.save_pretrained(tmp_path / "image_vae")
    return tmp_path / "image_vae"


def test_the_loss_is_the_weighted_sum_of_its_parts():
    batch = task_of(tiny("loss.adversary=null")).batches.batch(1, 0)
    parts = {
        name: task_of(tiny("loss={l1: 0, l2: 0, kl: 0}", f"loss.{name}=1")).loss(batch)
        for name in ("l1", "l2", "kl")
    }
    whole = task_of(tiny("loss={l1: 0.5, l2: 2, kl: 0.1}")).loss(batch)
    torch.testing.assert_close(whole, 0.5 * parts["l1"] + 2 * parts["l2"] + 0.1 * parts["kl"])
    assert all(part > 0 for part in parts.values())


def test_lpips_counts_where_weights_are_given(tmp_path):
    tensors, inputs = {}, 3
    for number, places in enumerate(STAGES):
        for place in places:
            name = f"net.slice{number + 1}.{place}"
            tensors[f"{name}.weight"] = torch.randn(4, inputs, 3, 3)
            tensors[f"{name}.bias"] = torch.zeros(4)
            inputs = 4
        tensors[f"lin{number}.model.1.weight"] = torch.rand(1, 4, 1, 1)
    save_file(tensors, tmp_path / "lpips.safetensors")
    changes = ["loss.adversary=null", f"loss.lpips_weights={tmp_path / 'lpips.safetensors'}"]
    tasks = [task_of(tiny(*changes, f"loss.lpips={weight}")) for weight in (0, 1, 2)]
    batch = tasks[0].batches.batch(1, 0)
    without, once, twice = (task.loss(batch).item() for task in tasks)
    assert once - without > 1e-4
    assert twice - without == pytest.approx(2 * (once - without), rel=1e-3)
    assert tasks[1].modules.keys() == {"vae"}
    with pytest.raises(ValueError, match="lpips needs lpips_weights"):
        tiny("loss={lpips: 1}")


def test_one_backward_gives_each_side_its_own_gradients():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=16, layers=1)
    adversary = Adversary(AdversaryConfig(weight=0.5), discriminator, Ranks())
    decoder = torch.nn.Conv3d(3, 3, 1)
    codes, truth = torch.randn(2, 2, 3, 1, 16, 16)

    def losses():
        frames = decoder(codes)
        return frames, (frames - truth).abs().mean()

    frames, reconstruction = losses()
    adversary.loss(frames, truth, reconstruction, decoder.weight).backward()
    together = [gradients(decoder), gradients(discriminator)]
    decoder.zero_grad()
    discriminator.zero_grad()

    frames, reconstruction = losses()
    real, made = discriminator(truth), discriminator(frames.detach())
    (0.5 * ((1 - real).relu().mean() + (1 + made).relu().mean())).backward()
    apart = gradients(discriminator)
    caught = -discriminator(frames).mean()
    pulls = [
        torch.autograd.grad(loss, decoder.weight, retain_graph=True)[0].norm()
        for loss in (reconstruction, caught)
    ]
    (0.5 * float(pulls[0] / (pulls[1] + 1e-4)) * caught).backward(inputs=list(decoder.parameters()))
    for found, wanted in zip(together, [gradients(decoder), apart], strict=True):
        assert found.keys() == wanted.keys()
        for name in found:
            torch.testing.assert_close(found[name], wanted[name], atol=1e-6, rtol=1e-4)
    assert together[0]["weight"].abs().max() > 0


def test_the_balance_lets_both_losses_pull_alike():
    weight = torch.nn.Parameter(torch.ones(4))
    strong, weak = (weight * 300).sum(), (weight * 2).sum()
    assert float(balance(strong, weak, weight, Ranks())) == pytest.approx(150, rel=1e-3)
    assert float(balance(strong, 0 * weak, weight, Ranks())) == 1e4


def test_the_adversary_rests_until_its_step():
    task = task_of(tiny(ADVERSARY % 2))
    alone = task_of(tiny("loss.adversary=null"))
    for step in (1, 2):
        batch = task.batches.batch(0, step)
        assert batch.step == step
        loss = task.loss(batch)
        loss.backward()
        judged = [grad is not None for grad in gradients(task.modules["discriminator"]).values()]
        assert all(judged) if step == 2 else not any(judged)
        assert torch.equal(loss, alone.loss(batch)) == (step == 1)


def test_a_discriminator_learns_to_tell_and_the_vae_to_deceive(tmp_path):
    """The one loss moves the verdict on made frames down or up, whoever's weights are stepped."""
    task = task_of(tiny(ADVERSARY % 0, "loss.l1=1", "loss.l2=0", "loss.kl=0"))
    batch = task.batches.batch(0, 0)
    discriminator = task.modules["discriminator"]

    def verdicts():
        with torch.no_grad():
            code = task.vae.encode(batch.frames).latent_dist
            frames = task.vae.decode(code.mean + code.std * batch.noise).sample
            return float(discriminator(frames).mean()), float(discriminator(batch.frames).mean())

    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-2)
    for _ in range(12):
        task.modules.zero_grad()
        task.loss(batch).backward()
        optimizer.step()
    told, real = verdicts()
    assert real - told > 0.5
    optimizer = torch.optim.AdamW(task.vae.parameters(), lr=1e-2)
    for _ in range(12):
        task.modules.zero_grad()
        task.loss(batch).backward()
        optimizer.step()
    assert verdicts()[0] > told + 0.2


def test_a_run_with_an_adversary_resumes_to_the_bit_and_saves_the_vae_alone(tmp_path):
    recipe = tiny(ADVERSARY % 1, "checkpoint.every_steps=2")
    saved = train(recipe, tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "step-00000002"
    train(recipe, tmp_path / "again", resume=half)
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")[2:]
    parts = [
        [
            load_file(run / "checkpoints" / "step-00000004" / f"{part}.safetensors")
            for part in ("model", "ema", "optimizer")
        ]
        for run in (tmp_path / "whole", tmp_path / "again")
    ]
    for one, two in zip(*parts, strict=True):
        assert any("discriminator" in name for name in one)
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    stored = load_file(saved / "diffusion_pytorch_model.safetensors")
    assert not any("discriminator" in name for name in stored)


def test_an_image_vae_goes_on_with_images_and_clips(image_vae, tmp_path):
    recipe = load_recipe(
        "smoke_world_vae",
        ["samples.every_steps=0", "steps=2", f"vae={{inflate_from: {image_vae}}}"],
    )
    task = task_of(recipe)
    frames = task.batches.batch(0, 0).frames
    with torch.no_grad():
        wanted = encode_frames(load_vae(image_vae), frames)
        torch.testing.assert_close(encode_frames(task.vae, frames), wanted, atol=1e-5, rtol=0)
    saved = train(recipe, tmp_path / "run")
    assert type(load_vae(saved)) is AutoencoderKLVideo
    assert {f"loss_{kind}" for kind in ("image", "video")} & set(metrics(tmp_path / "run")[0])
    latents = ["in_channels=4", "patch_size=[1, 2, 2]", "head_target=velocity"]
    recipe = tiny_recipe(
        *("steps=1", "objective.type=v_prediction", f"vae={tmp_path / 'run'}"),
        *(f"model.overrides.{field}" for field in latents),
    )
    pipe = HTHPipeline.from_pretrained(train(recipe, tmp_path / "denoiser"))
    assert type(pipe.vae) is AutoencoderKLVideo
    # What was inflated is itself no image VAE.
    again = load_recipe("smoke_world_vae", [f"vae={{inflate_from: {tmp_path / 'run'}}}"])
    with pytest.raises(ValueError, match="AutoencoderKLVideo: only an AutoencoderKL is inflated"):
        task_of(again)


def test_sources_of_weights_exclude_each_other(image_vae):
    with pytest.raises(ValueError, match="give one of preset, init_from and inflate_from"):
        load_recipe("smoke_world_vae", ["vae.inflate_from=here"])
    with pytest.raises(ValueError, match="overrides change a preset"):
        load_recipe("smoke_world_vae", ["vae={init_from: here, overrides: {latent_channels: 4}}"])
    with pytest.raises(ValueError, match=r"holds an image VAE: vae\.inflate_from"):
        task_of(load_recipe("smoke_world_vae", [f"vae={{init_from: {image_vae}}}"]))
