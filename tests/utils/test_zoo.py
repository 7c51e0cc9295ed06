"""The model zoo: data that configs, commands and README agree with."""

import functools
import hashlib
import re

import numpy as np
import paddle
import pytest
import yaml

from passl.cli import eval as eval_command
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import BACKBONES
from passl.utils import zoo
from passl.utils.config import get_config, plain, shipped_configs
from passl.utils.errors import PasslError

RELEASES = zoo.releases()


@functools.cache
def configured(name):
    release = RELEASES[name]
    return get_config(release.config, release.overrides)


@pytest.mark.parametrize("name", RELEASES)
def test_each_release_is_whole(name):
    release = RELEASES[name]
    backbone = name.partition(".")[0]
    assert release.files and all(file.url.startswith("https://") for file in release.files)
    architecture = plain(configured(name).model.architecture)
    publishers = set(BACKBONES.attribute(architecture["name"], "released_names", {}))
    assert {file.by for file in release.files} <= publishers
    for file in release.files:
        if file.sha256:
            assert re.fullmatch(r"[0-9a-f]{8,64}", file.sha256)
            assert file.sha256 in file.name or f"/{file.sha256}/" in file.url
    assert not release.measured, "ImageNet cannot be had where this is built"
    view = configured(name).dataloader.val
    assert plain(view.dataset.transforms) == release.preprocessing.transforms()
    assert plain(view.batch_transforms) == release.preprocessing.batch_transforms()
    assert backbone == architecture["name"] or "patch_size" in architecture  # S/8 has no name


# Networks of the same size are built once; L/16 with 21,843 classes stands for itself by sums.
@pytest.mark.parametrize("name", ["mlp_mixer_b32_224.goog_sam_in1k", "mlp_mixer_b16_224.goog_in1k",
                                  "mlp_mixer_b16_224.goog_in21k", "mlp_mixer_b16_224.miil_in21k",
                                  "mlp_mixer_s8_224.goog_gsam_in1k",
                                  "resmlp_12_224.fb_dino",
                                  "cyclemlp_b1.authors_in1k", "vip_s7.authors_in1k",
                                  "convmlp_s.authors_in1k",
                                  "vit_s16_224.augreg_in21k", "vit_b16_224.miil_in21k_ft_in1k",
                                  "vit_b16_224.orig_in21k", "deit_ti16_distilled_224.fb_in1k",
                                  "swin_t_224.ms_in22k", "swin_b_384.ms_in1k",
                                  "beit_b16_224.in22k_ft_in22k", "cvt_13.ms_in1k",
                                  "t2t_vit_7_224.authors_in1k", "resnet50.tv2_in1k",
                                  "resnet50.passl_simclr", "resnet34.a1_in1k",
                                  *filter(re.compile("clip_").match, RELEASES)])  # fmt: skip
def test_parameters_are_those_of_the_network_that_its_command_builds(name):
    release = RELEASES[name]
    with paddle.LazyGuard():  # the shapes are enough
        model = build_architecture(configured(name).model)
    assert sum(p.size for p in model.parameters()) == release.parameters
    assert (model.num_classes or 0) == release.num_classes


def test_the_promised_figures():
    b16, l16 = RELEASES["mlp_mixer_b16_224.goog_in1k"], RELEASES["mlp_mixer_l16_224.goog_in1k"]
    assert (b16.reported[0].top1, b16.reported[0].top5, b16.parameters) == (76.60, 92.23, 59880472)
    assert (l16.reported[0].top1, l16.reported[0].top5, l16.parameters) == (72.06, 87.67, 208196168)
    half = b16.preprocessing
    assert (half.mean, half.std) == ([0.5] * 3, [0.5] * 3)
    assert (half.size, half.crop_ratio, half.interpolation) == (224, 0.875, "bicubic")
    assert "from scratch" in b16.provenance and "from scratch" in l16.provenance


def test_configs_take_their_preprocessing_from_the_zoo():
    """None of those that name a release writes a view of its own that could disagree."""
    named = 0
    for path in shipped_configs().values():
        values = yaml.safe_load(path.read_text())
        if "preprocessing" not in values:
            continue
        named += 1
        for section in (values.get("dataloader") or {}).values():
            names = [t["name"] for t in section.get("batch_transforms", [])]
            assert "Normalize" not in names, path
        assert "transforms" not in values.get("dataloader", {}).get("val", {}).get("dataset", {})
        if path.stem.endswith("_own_images_finetune"):
            continue  # of other classes
        assert f"{RELEASES[values['preprocessing']].reported[0].top1:.2f}" in path.read_text()
    assert named >= 3


def test_choosing_another_preprocessing():
    miil = RELEASES["mlp_mixer_b16_224.miil_in21k"].preprocessing
    cfg = get_config("mlp-mixer_b16_224", [
        "dataloader.val.dataset.transforms.0.crop_ratio=0.9",  # of the view that is chosen next
        "preprocessing=mlp_mixer_b16_224.miil_in21k",
    ])  # fmt: skip
    assert plain(cfg.dataloader.train.batch_transforms)[:-1] == miil.batch_transforms()
    assert cfg.dataloader.train.batch_transforms[-1].name == "Mixup", "the recipe's own stays"
    (view,) = cfg.dataloader.val.dataset.transforms
    assert (view.crop_ratio, view.interpolation) == (0.9, "bilinear")
    with pytest.raises(PasslError, match="-o preprocessing=.*did you mean 'mlp_mixer_b16_224.goog"):
        get_config("mlp-mixer_b16_224", ["preprocessing=mlp_mixer_b16_224.goog_in1"])


def test_a_resolved_config_reads_back_the_same(tmp_path):
    cfg = get_config("mlp-mixer_b16_224", ["dataloader.val.dataset.transforms.0.size=448"])
    path = tmp_path / "config.yaml"
    path.write_text(cfg.to_yaml())
    assert plain(get_config(path)) == plain(cfg)
    # Asked for on the command line, another view replaces the one that was written out.
    other = get_config(path, ["preprocessing=mlp_mixer_b16_224.miil_in21k"])
    assert other.dataloader.val.dataset.transforms[0].size == 224


def test_a_config_of_ones_own_may_name_a_release_or_not(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "model: {}\npreprocessing: mlp_mixer_b16_224.goog_in1k\n"
        "dataloader: {val: {dataset: {name: ImageFolder, dataroot: x}, sampler: {batch_size: 1}}}\n"
    )
    assert get_config(path).dataloader.val.dataset.transforms[0].name == "ResizeCenterCrop"
    path.write_text(path.read_text().replace("goog_in1k", "goog_in1"))
    with pytest.raises(PasslError, match="own.yaml:2: the model zoo has no"):
        get_config(path)


def test_the_list_is_shown_without_a_config(capsys):
    with pytest.raises(SystemExit) as stopped:
        eval_command.main(["--list"])
    assert not stopped.value.code
    out = capsys.readouterr().out
    for release in RELEASES.values():
        assert release.name in out and release.files[0].url in out
    assert "76.60 / 92.23 by timm" in out and "measured    not yet" in out


def test_files_are_known_by_name_and_hash(tmp_path):
    path = tmp_path / "mixer_b16_224_miil-9229a591.pth"
    path.write_bytes(b"something else")
    ((release, file),) = zoo.files_called(path)
    assert release.name == "mlp_mixer_b16_224.miil_in21k_ft_in1k"
    assert not zoo.has_known_hash(path, file)
    digest = hashlib.sha256(b"something else").hexdigest()
    assert zoo.has_known_hash(path, zoo.ReleasedFile("x", "timm", "", digest[:8]))
    assert {r.name for r, _ in zoo.files_called("Mixer-B_16.npz")} >= {
        "mlp_mixer_b16_224.goog_in1k", "mlp_mixer_b16_224.goog_sam_in1k"
    }  # fmt: skip
    assert not zoo.files_called("best.safetensors")


def test_numbers_are_percent():
    accuracies = [a for r in RELEASES.values() for a in r.reported]
    assert accuracies and all(30 < a.top1 < 100 and a.by for a in accuracies)
    assert all(a.top5 is None or a.top1 < a.top5 < 100 for a in accuracies)
    assert np.isfinite([a.top1 for a in accuracies]).all()
