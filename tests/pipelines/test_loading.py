"""Model folders: saved, loaded, resolved by name, and refused when they are not to be trusted."""

import json
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from statefilm import HTHPipeline, TemporalSSMUNet, VideoDiffusionPipeline, load_pipeline
from statefilm.errors import UsageError
from statefilm.pipelines import loading
from statefilm.pipelines.checkpoint import model_hash
from statefilm.pipelines.sampling import seed_generators
from statefilm.pipelines.video_diffusion import ddpm_scheduler

from .conftest import make_pipeline

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def image(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red circle", generator=seed_generators(7, 1), output_type="pt").images


def refuses(folder, message, error=UsageError):
    with pytest.raises(error, match=message) as raised:
        load_pipeline(folder, device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("offline")
def test_a_saved_pipeline_makes_the_same_image(pipe, folder):
    loaded = load_pipeline(folder, device="cpu")
    assert torch.equal(image(loaded), image(pipe))
    assert not any(c.training for c in (loaded.transformer, loaded.text_encoder))
    assert loaded.vae is None
    assert loaded.config.default_steps == 3


def test_a_vae_travels_with_its_pipeline(tmp_path):
    pipe = make_pipeline(with_vae=True)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(image(HTHPipeline.from_pretrained(tmp_path)), image(pipe))


def test_folders_hold_safetensors_and_public_names(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["transformer"] == ["statefilm", "HTHTransformer"]
    assert index["vae"] == [None, None]
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
    with pytest.raises(UsageError, match="safetensors only"):
        HTHPipeline.from_pretrained(folder).save_pretrained(folder, safe_serialization=False)


def test_dtypes_by_name(folder):
    assert load_pipeline(folder, "bfloat16", "cpu").transformer.dtype == torch.bfloat16
    assert load_pipeline(folder, "auto", "cpu").transformer.dtype == torch.float32
    with pytest.raises(UsageError, match="did you mean 'bfloat16'"):
        load_pipeline(folder, "bfloat", "cpu")
    with pytest.raises(UsageError, match="'gpu'"):
        load_pipeline(folder, device="gpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "text_encoder/x.pt", "vae/code.py"])
def test_pickles_and_code_are_refused(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    refuses(folder, f"{path.name}: only safetensors")


@pytest.mark.parametrize("option", ["trust_remote_code", "custom_pipeline", "use_onnx"])
def test_nothing_in_a_folder_is_run(folder, option):
    with pytest.raises(UsageError, match=option):
        HTHPipeline.from_pretrained(folder, **{option: True})


@pytest.mark.parametrize("name", [TRANSFORMER, "text_encoder/model.safetensors"])
def test_truncated_weights_are_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    refuses(folder, f"{path.name}: damaged or truncated")
    path.write_bytes(b"")
    refuses(folder, f"{path.name}: damaged or truncated")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_named(folder, value):
    weights = load_file(folder / TRANSFORMER)
    weights["token_in.bias"][3] = value
    save_file(weights, folder / TRANSFORMER)
    refuses(folder, "diffusion_pytorch_model.safetensors: tensor 'token_in.bias' holds NaN")


def test_missing_and_misfitting_tensors_are_refused(folder):
    weights = load_file(folder / TRANSFORMER)
    bias = weights.pop("token_in.bias")
    save_file(weights, folder / TRANSFORMER, metadata={"format": "pt"})
    refuses(folder, "first 'token_in.bias'")
    save_file(
        weights | {"token_in.bias": bias[:3]}, folder / TRANSFORMER, metadata={"format": "pt"}
    )
    refuses(folder, "token_in.bias")


def test_a_missing_text_encoder_tensor_is_refused(folder):
    path = folder / "text_encoder/model.safetensors"
    weights = load_file(path)
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    refuses(folder, name)


@pytest.mark.parametrize("damage", ["missing", "list", "syntax", "class"])
def test_a_damaged_index_is_refused(folder, damage):
    index = folder / "model_index.json"
    if damage == "missing":
        index.unlink()
    elif damage == "list":
        index.write_text("[]")
    elif damage == "syntax":
        index.write_text("{")
    else:
        fields = json.loads(index.read_text()) | {"transformer": ["os", "PathLike"]}
        index.write_text(json.dumps(fields))
    refuses(folder, "model_index.json|cannot be loaded")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "model_index.json names no _class_name: HTHPipeline or VideoDiffusionPipeline"),
        ("HTHPipelin", "unknown pipeline class in .*'HTHPipelin': did you mean 'HTHPipeline'"),
        (["os"], "unknown pipeline class"),
    ],
)
def test_a_folder_of_no_known_class_is_refused(folder, name, message):
    fields = json.loads((folder / "model_index.json").read_text()) | {"_class_name": name}
    (folder / "model_index.json").write_text(json.dumps(fields))
    refuses(folder, message)


def test_a_folder_is_loaded_as_the_class_that_it_names(folder, tmp_path):
    unet = TemporalSSMUNet(dim=8, multipliers=(1,), groups=4, spatial_heads=1, num_classes=2)
    saved = VideoDiffusionPipeline(unet, ddpm_scheduler(4), class_names=["a", "b"])
    saved.save_pretrained(tmp_path / "unet")
    pipe = load_pipeline(tmp_path / "unet", "bfloat16", "cpu", kind=VideoDiffusionPipeline)
    assert type(pipe) is VideoDiffusionPipeline
    assert pipe.denoiser is pipe.unet and pipe.denoiser.dtype == torch.bfloat16
    assert (pipe.kinds, pipe.takes_windows) == (("video",), True)
    assert (pipe.reads_text, pipe.num_classes) == (False, 2)
    assert pipe.config.class_names == ["a", "b"]
    other = load_pipeline(folder, device="cpu")
    assert type(other) is HTHPipeline and other.denoiser is other.transformer
    assert (other.kinds, other.takes_windows) == (("image", "video"), False)
    assert (other.reads_text, other.num_classes) == (True, None)
    with pytest.raises(UsageError, match="unet is a VideoDiffusionPipeline: a HTHPipeline is need"):
        load_pipeline(tmp_path / "unet", kind=HTHPipeline)


def test_models_are_found_by_name_folder_and_run(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    pipe.save_pretrained(tmp_path / "world-64")
    assert loading.bundled_models() == ["world-64"]
    assert loading.resolve_model("world-64") == tmp_path / "world-64"
    with pytest.raises(UsageError, match="unknown model 'word-64': did you mean 'world-64'"):
        load_pipeline("word-64")
    with pytest.raises(FileNotFoundError, match="model folder not found: some/where"):
        load_pipeline("some/where")
    pipe.save_pretrained(tmp_path / "run" / "pipeline")
    assert loading.resolve_model(tmp_path / "run") == tmp_path / "run" / "pipeline"


def test_the_hash_is_of_the_weights(folder, tmp_path):
    first = model_hash(folder)
    assert len(first) == 64
    (folder / "README.md").write_text("more about the model")
    assert model_hash(folder) == first
    other = tmp_path / "elsewhere"
    folder.rename(other)
    assert model_hash(other) == first
    weights = load_file(other / TRANSFORMER)
    weights["token_in.bias"][0] += 1
    save_file(weights, other / TRANSFORMER)
    assert model_hash(other) != first


def test_importing_the_package_leaves_torch_alone():
    code = (
        "import sys, statefilm, statefilm.pipelines.media; assert 'torch' not in sys.modules; "
        "assert 'HTHPipeline' in dir(statefilm); "
        "assert not hasattr(statefilm, 'nonsense')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
