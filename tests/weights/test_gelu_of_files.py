"""Which GELU released files of CLIP were trained with, and what is made of it.

The table of names is what open_clip 3.3.0 says of each of its weights (``open_clip/pretrained.py``:
address, folder on Hugging Face, ``quick_gelu``), and what timm 1.0.31 calls them.
"""

import dataclasses
import hashlib

import numpy as np
import paddle
import pytest
from clip import SMALL_TEXT, TOWERS, clip, open_clip_state

from passl.modeling.architectures import build_architecture
from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.utils import zoo
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights
from passl.weights.activations import quick_gelu_of
from passl.weights.converting import convert_weights
from passl.weights.formats import safetensors, torch

QUICK_FILES = """
RN50.pt RN101.pt RN50x4.pt RN50x16.pt RN50x64.pt ViT-B-32.pt ViT-B-16.pt ViT-L-14.pt
ViT-L-14-336px.pt ViT-B-32.pdparams rn50-quickgelu-yfcc15m-455df137.pt
rn50-quickgelu-cc12m-f000538c.pt rn101-quickgelu-yfcc15m-3e04b30e.pt
vit_b_32-quickgelu-laion400m_e31-d867053b.pt vit_b_32-quickgelu-laion400m_e32-46683a32.pt
b32_400m.pt b32_fullcc2.5b.pt b16_400m.pt b16_fullcc2.5b.pt l14_400m.pt l14_fullcc2.5b.pt
h14_fullcc2.5b.pt G14_fullcc2.5b.pt
""".split()
PLAIN_FILES = """
vit_b_32-laion2b_e16-af8dbd0c.pth vit_b_16-laion400m_e31-00efa78f.pt
vit_b_16-laion400m_e32-55e67d44.pt vit_b_16_plus_240-laion400m_e31-8fb26589.pt
vit_b_16_plus_240-laion400m_e32-699c4b84.pt vit_l_14-laion400m_e31-69988bb6.pt
vit_l_14-laion400m_e32-3d133497.pt h14_v1.2_altogether.pt
""".split()
QUICK_FOLDERS = """
clip-vit-base-patch32 clip-vit-base-patch16 clip-vit-large-patch14 clip-vit-large-patch14-336
clip-rn50 clip-rn101 resnet50_clip.openai resnet50_clip.yfcc15m resnet50_clip.cc12m
resnet101_clip.openai resnet101_clip.yfcc15m resnet50x4_clip.openai resnet50x16_clip.openai
resnet50x64_clip.openai vit_base_patch32_clip_224.openai vit_base_patch32_clip_224.laion400m_e31
vit_base_patch32_clip_224.laion400m_e32 vit_base_patch32_clip_224.metaclip_400m
vit_base_patch32_clip_224.metaclip_2pt5b vit_base_patch16_clip_224.openai DFN2B-CLIP-ViT-B-16
vit_base_patch16_clip_224.metaclip_400m vit_base_patch16_clip_224.metaclip_2pt5b
vit_large_patch14_clip_224.openai vit_large_patch14_clip_224.metaclip_400m
vit_large_patch14_clip_224.metaclip_2pt5b DFN2B-CLIP-ViT-L-14 vit_large_patch14_clip_336.openai
vit_huge_patch14_clip_224.metaclip_2pt5b DFN5B-CLIP-ViT-H-14 DFN5B-CLIP-ViT-H-14-378
vit_gigantic_patch14_clip_224.metaclip_2pt5b vit_huge_patch14_clip_224.metaclip2_worldwide
vit_base_patch32_clip_quickgelu_224.openai vit_base_patch32_clip_quickgelu_224.laion400m_e32
vit_large_patch14_clip_quickgelu_224.dfn2b vit_huge_patch14_clip_quickgelu_378.dfn5b
vit_base_patch16_clip_224.dfn2b vit_large_patch14_clip_224.dfn2b vit_huge_patch14_clip_224.dfn5b
metaclip-b32-400m metaclip-h14-fullcc2.5b metaclip-2-worldwide-huge-quickgelu
""".split()
PLAIN_FOLDERS = """
CLIP-ViT-B-32-laion2B-s34B-b79K CLIP-ViT-B-32-DataComp.XL-s13B-b90K
CLIP-ViT-B-32-DataComp.M-s128M-b4K CLIP-ViT-B-32-CommonPool.M.clip-s128M-b4K
CLIP-ViT-B-32-CommonPool.M.laion-s128M-b4K CLIP-ViT-B-32-CommonPool.S-s13M-b4K
CLIP-ViT-B-32-256x256-DataComp-s34B-b86K CLIP-ViT-B-16-laion2B-s34B-b88K
CLIP-ViT-B-16-DataComp.XL-s13B-b90K CLIP-ViT-B-16-CommonPool.L.basic-s1B-b8K
CLIP-ViT-L-14-laion2B-s32B-b82K CLIP-ViT-L-14-DataComp.XL-s13B-b90K
CLIP-ViT-L-14-CommonPool.XL-s13B-b90K DFN2B-CLIP-ViT-L-14-39B CLIP-ViT-H-14-laion2B-s32B-b79K
CLIP-ViT-g-14-laion2B-s12B-b42K CLIP-ViT-g-14-laion2B-s34B-b88K
CLIP-ViT-bigG-14-laion2B-39B-b160k vit_base_patch16_clip_224.laion400m_e32
vit_base_patch16_plus_clip_240.laion400m_e32 vit_large_patch14_clip_224.laion400m_e32
vit_base_patch32_clip_224.laion2b_e16 vit_base_patch32_clip_224.datacompxl
vit_huge_patch14_clip_224.metaclip_altogether vit_huge_patch14_clip_378.metaclip2_worldwide
vit_gigantic_patch14_clip_224.metaclip2_worldwide vit_large_patch14_clip_224.dfn2b_s39b
vit_base_patch16_clip_224.openai_ft_in1k vit_base_patch16_clip_384.openai_ft_in12k_in1k
vit_large_patch14_clip_336.laion2b_ft_in12k_in1k vit_base_patch32_clip_448.laion2b_ft_in12k_in1k
metaclip-2-worldwide-giant metaclip-2-worldwide-huge-378
""".split()
NOTHING = ["model.safetensors", "open_clip_pytorch_model.bin", "epoch_32.pt", "my-laion-run.pt",
           "ViT-B-32-mine.pt", "openai.pt", "clip.pt", "vit-b-32.pt"]  # fmt: skip
ODD_FOLDERS = ["checkpoints", "openai", "quickgelu", "cc12m_rn50", "laion2b", "my-clip-vit-laion2b"]


def state(tower="ViT", seed=4):
    """The arrays of a small network by OpenAI's names."""
    return open_clip_state(small(tower, True, seed))


def small(tower="ViT", quick_gelu=True, seed=0):
    made = clip(tower, quick_gelu, seed=seed, text=SMALL_TEXT, tokenizer={"name": "HundredIds"})
    made.eval()
    return made


def told(path, arrays=None, metadata=None):
    """What a file at this path tells: part to whether it takes QuickGELU."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"logit_scale": np.array(1.0, np.float32)} if arrays is None else arrays
    if metadata is not None:
        safetensors.write_tensor_file(path, arrays, metadata)
    elif path.suffix == ".safetensors":
        safetensors.write(str(path), arrays, {"format": "pt"})
    else:
        torch.write(str(path), arrays)
    with WeightFile(path) as file:
        return quick_gelu_of(file)[0]


BOTH = {True: {"backbone": True, "text": True}, False: {"backbone": False, "text": False}}


@pytest.fixture
def without_hashes(monkeypatch):
    """As if no released file's hash were known: those here have other content."""
    monkeypatch.setattr(zoo, "releases", dict)


@pytest.mark.parametrize(
    "name, quick",
    [*((n, True) for n in QUICK_FILES), *((n, False) for n in PLAIN_FILES)],
)
def test_names_of_files(name, quick, tmp_path, without_hashes):
    assert told(tmp_path / name) == BOTH[quick]


@pytest.mark.parametrize(
    "folder, quick",
    [*((n, True) for n in QUICK_FOLDERS), *((n, False) for n in PLAIN_FOLDERS)],
)
def test_names_of_folders(folder, quick, tmp_path):
    """As a clone has it, and as the cache of huggingface_hub does."""
    assert told(tmp_path / folder / "model.safetensors") == BOTH[quick]
    cached = tmp_path / f"models--someone--{folder}" / "snapshots" / "0a1b2c" / "model.safetensors"
    assert told(cached) == BOTH[quick]


@pytest.mark.parametrize("name", NOTHING)
def test_other_names_say_nothing(name, tmp_path):
    assert told(tmp_path / name) == {}


@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_other_folders_say_nothing(folder, tmp_path):
    assert told(tmp_path / folder / "model.safetensors") == {}
    assert told(tmp_path / "CLIP-ViT-B-32-laion2B-s34B-b79K" / folder / "model.safetensors") == {}


def test_the_hash_counts_more_than_the_name(tmp_path, monkeypatch):
    """A released file is known under any name; of a released name, only with its content."""
    path = tmp_path / "CLIP-ViT-B-32-laion2B-s34B-b79K" / "renamed.pt"
    assert told(path) == BOTH[False]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    release = zoo.releases()["clip_vit_b32_224.openai"]
    file = zoo.ReleasedFile("ViT-B-32.pt", "openai", "", digest)
    known = {"some": dataclasses.replace(release, files=[file])}
    monkeypatch.setattr(zoo, "releases", lambda: known)
    with WeightFile(path) as opened:
        assert quick_gelu_of(opened) == (BOTH[True], "by its SHA-256 clip_vit_b32_224.openai")
    other = tmp_path / "ViT-B-32.pt"
    torch.write(str(other), {"logit_scale": np.array(2.0, np.float32)})
    with WeightFile(other) as opened:
        assert quick_gelu_of(opened) == ({}, "it has the name of a release, but not its content")


def test_the_zoos_releases_agree_with_their_names_and_configs():
    count = 0
    for name, release in zoo.releases().items():
        if not name.startswith("clip_"):
            assert release.quick_gelu is None
            continue
        model = get_config(release.config, release.overrides).model
        assert bool(model.text.get("quick_gelu", False)) == release.quick_gelu, name
        if "vit" in name:
            assert bool(model.architecture.get("quick_gelu", False)) == release.quick_gelu, name
        for file in release.files:
            folder = file.url.rpartition("/")[2]
            known = {n: True for n in (*QUICK_FILES, *QUICK_FOLDERS)}
            known.update({n: False for n in (*PLAIN_FILES, *PLAIN_FOLDERS)})
            found = [known[n] for n in (file.name, folder) if n in known]
            assert found == [release.quick_gelu] * len(found), file
            count += len(found)
    assert count > 20


CONFIG = {"model": {"name": "CLIP", "architecture": {"name": "x", "quick_gelu": True}, "text": {}}}


def test_our_own_record_counts_most(tmp_path, without_hashes):
    path = tmp_path / "CLIP-ViT-B-32-laion2B-s34B-b79K" / "ViT-B-32.safetensors"
    record = {"kind": "weights", "config": CONFIG}
    assert told(path, metadata=record) == {"backbone": True, "text": False}
    record = {"kind": "weights", "quick_gelu": {"text": True, "backbone": "no", "head": 3}}
    assert told(path, metadata=record) == {"text": True}
    assert told(path, metadata={"kind": "weights"}) == {}
    assert told(path, metadata={"kind": "weights", "config": {"model": [1]}}) == {}
    # Written by us in another's names: as that one's files.
    assert told(path, metadata={"kind": "weights", "publisher": "openai"}) == BOTH[False]


# ------------------------------------------------ what loading makes of it


def written(folder, arrays, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    safetensors.write(str(path), arrays, {"format": "pt"})
    return path


@pytest.mark.smoke
def test_another_gelu_is_refused_before_anything_is_set(tmp_path):
    path = written(tmp_path / "clip-vit-base-patch32", state())
    model = small(quick_gelu=False)
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with pytest.raises(PasslError) as refused:
        load_weights(model, path)
    assert str(refused.value) == (
        f"{path}: was trained with QuickGELU (by the name 'clip-vit-base-patch32'), the model has "
        "the exact GELU, with which its answers are worse; set  "
        "-o model.architecture.quick_gelu=true -o model.text.quick_gelu=true"
    )
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    load_weights(small(quick_gelu=True), path)
    plain = written(tmp_path / "CLIP-ViT-B-32-laion2B-s34B-b79K", state())
    with pytest.raises(PasslError, match=r"the exact GELU \(by .*the model has QuickGELU.*=false"):
        load_weights(small(quick_gelu=True), plain)
    load_weights(small(quick_gelu=False), plain)


def test_the_towers_are_told_apart(tmp_path):
    path = written(tmp_path / "clip-rn50", state("ResNet"))
    # A ResNet's image tower has neither.
    with pytest.raises(PasslError, match=r"set  -o model\.text\.quick_gelu=true$"):
        load_weights(small("ResNet", False), path)
    load_weights(small("ResNet", True), path)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_classifier_is_told_too(quick_gelu, tmp_path):
    path = written(tmp_path / "vit_base_patch32_clip_224.openai", state())
    head = {"name": "ClassificationHead", "num_classes": 3}
    model = Network({**TOWERS["ViT"], "quick_gelu": quick_gelu}, head)
    if quick_gelu:
        load_weights(model, path, new_head=True)
    else:
        with pytest.raises(PasslError, match=r"set  -o model\.architecture\.quick_gelu=true$"):
            load_weights(model, path, new_head=True)


def test_a_tower_that_takes_nothing_of_the_file_is_not_asked(tmp_path):
    """An image tower that is trained, and a text tower that is to learn: locked-image tuning."""
    arrays = {n: array for n, array in state().items() if n.startswith("visual.")}
    path = written(tmp_path / "clip-vit-base-patch32", arrays)
    text = {**SMALL_TEXT, "quick_gelu": False}
    made = build_architecture(
        {
            "name": "CLIP",
            "architecture": {**TOWERS["ViT"], "quick_gelu": True},
            "text": text,
            "embed_dim": 48,
            "tokenizer": {"name": "HundredIds"},
        }
    )
    report = load_weights(made, path, new_head=True)
    assert any(name.startswith("text.") for name in report.kept)
    assert not any(name.startswith("backbone.") for name in report.kept)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_where_nothing_tells_one_line_says_which_was_taken(quick_gelu, tmp_path, messages):
    path = written(tmp_path / "some", state())
    load_weights(small(quick_gelu=quick_gelu), path)
    words = {True: "QuickGELU", False: "the exact GELU"}[quick_gelu]
    said = [line for line in messages() if "GELU" in line]
    assert len(said) == 1 and said[0].endswith(
        f"{path}: does not tell which GELU it was trained with; {words} is taken "
        "(model.architecture.quick_gelu, model.text.quick_gelu)"
    )


def test_where_it_is_known_nothing_is_said(tmp_path, messages):
    load_weights(small(), written(tmp_path / "clip-vit-base-patch32", state()))
    assert not [line for line in messages() if "GELU" in line]


def test_networks_without_that_setting_are_not_asked(tmp_path, messages):
    vit = {**TOWERS["ViT"], "name": "VisionTransformer"}
    model = Network(vit, {"name": "ClassificationHead", "num_classes": 3})
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    path = tmp_path / "own.safetensors"
    safetensors.write_tensor_file(path, arrays, {"kind": "weights"})
    load_weights(model, path)
    assert not [line for line in messages() if "GELU" in line]


def test_our_own_checkpoint_is_held_to_its_config(tmp_path):
    made = small(quick_gelu=True)
    arrays = {f"model/{name}": tensor.numpy() for name, tensor in made.state_dict().items()}
    config = {"model": {"architecture": {"quick_gelu": True}, "text": {"quick_gelu": False}}}
    path = tmp_path / "checkpoint.safetensors"
    safetensors.write_tensor_file(path, arrays, {"kind": "training", "config": config})
    with pytest.raises(PasslError, match=r"the exact GELU \(by its own record\).*text.*=false$"):
        load_weights(made, path)
    config["model"]["text"]["quick_gelu"] = True
    safetensors.write_tensor_file(path, arrays, {"kind": "training", "config": config})
    load_weights(made, path)


def test_what_is_converted_keeps_it(tmp_path):
    families = {"clip": BACKBONES.attribute("CLIPVisionTransformer", "released_names", {})}
    source = written(tmp_path / "clip-vit-base-patch32", state())
    target = tmp_path / "own.safetensors"
    convert_weights(source, target, families)
    with WeightFile(target) as file:
        assert quick_gelu_of(file) == (BOTH[True], "by its own record")
        assert "data" not in file.metadata  # whose classes are none of ImageNet's
    load_weights(small(), target)
    with pytest.raises(PasslError, match="by its own record"):
        load_weights(small(quick_gelu=False), target)
    again = tmp_path / "again.safetensors"
    convert_weights(target, again, families, "openai")
    assert told_of(again) == BOTH[True]
    unknown = tmp_path / "unknown.safetensors"
    convert_weights(written(tmp_path / "some", state()), unknown, families)
    assert told_of(unknown) == {}


def test_a_mean_has_that_of_both(tmp_path):
    families = {"clip": BACKBONES.attribute("CLIPVisionTransformer", "released_names", {})}
    quick = written(tmp_path / "clip-vit-base-patch32", state())
    plain = written(tmp_path / "CLIP-ViT-B-32-laion2B-s34B-b79K", state())
    unknown = written(tmp_path / "some", state())
    target = tmp_path / "mean.safetensors"
    with pytest.raises(PasslError, match=f"{plain}: was trained with another GELU than {quick}"):
        convert_weights(quick, target, families, other=plain)
    for one, two in ((quick, unknown), (unknown, quick)):
        convert_weights(one, target, families, other=two)
        assert told_of(target) == BOTH[True]


def told_of(path):
    with WeightFile(path) as file:
        return quick_gelu_of(file)[0]


def test_the_two_differ():
    """So that a test of the one is none of the other."""
    one, other = small(quick_gelu=True), small(quick_gelu=False)
    image = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype("f4"))
    with paddle.no_grad():
        pair = [model.embed_images(image).numpy() for model in (one, other)]
    assert np.abs(pair[0] - pair[1]).max() > 1e-4
