"""The recipes of others, as their records say them."""

import math

import pytest

from passl.datasets import TRANSFORMS
from passl.solver import build_schedule
from passl.utils.config import get_config, plain


def test_resmlps_recipe_is_the_authors():
    """facebookresearch/deit issue 106, and the defaults of its main.py."""
    cfg = plain(get_config("resmlp_12_224"))
    assert (cfg["epochs"], cfg["global_batch_size"]) == (400, 2048)
    assert cfg["lr_scheduler"] == {
        "name": "Cosine", "learning_rate": 5e-3, "warmup_epochs": 5, "start_lr": 1e-6,
        "end_lr": 1e-5,
    }  # fmt: skip
    assert cfg["optimizer"]["name"] == "LAMB" and cfg["optimizer"]["weight_decay"] == 0.2
    assert cfg["model"]["architecture"]["drop_path_rate"] == 0.05
    assert cfg["model"]["head"]["label_smoothing"] == 0.1
    train = cfg["dataloader"]["train"]
    assert train["sampler"]["repeats"] == 3
    crop, flip, augment, erasing = train["dataset"]["transforms"]
    assert (crop["name"], flip["name"]) == ("RandomResizedCrop", "RandomHorizontalFlip")
    assert (augment["operations"], augment["magnitude"]) == ("increasing", 9)
    assert augment["magnitude_std"] == 0.5 and erasing["probability"] == 0.25
    normalize, mixup = train["batch_transforms"]
    assert normalize["mean"] == [0.485, 0.456, 0.406]
    assert (mixup["mixup_alpha"], mixup["cutmix_alpha"]) == (0.8, 1.0)


def test_gmlps_recipe_is_the_papers():
    """arXiv 2105.08050, appendix A.1, as far as the head of the config vouches for it."""
    for size, drop_path in (("ti16", 0.0), ("s16", 0.05), ("b16", 0.2)):
        cfg = plain(get_config(f"gmlp_{size}_224"))
        assert cfg["model"]["architecture"]["drop_path_rate"] == drop_path
        assert (cfg["epochs"], cfg["global_batch_size"]) == (300, 4096)
        assert cfg["lr_scheduler"]["warmup_steps"] == 10000
        assert cfg["lr_scheduler"]["learning_rate"] == 1e-3
        assert cfg["optimizer"] == {
            "name": "AdamW", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.05,
            "grad_clip": 1.0,
        }  # fmt: skip
        assert [t["name"] for t in cfg["dataloader"]["train"]["dataset"]["transforms"]] == [
            "RandomResizedCrop", "RandomHorizontalFlip", "AutoAugment",
        ]  # fmt: skip
        assert cfg["dataloader"]["train"]["batch_transforms"][0]["mean"] == [0.5] * 3


def test_deits_recipe_is_the_authors():
    """facebookresearch/deit, main.py and README; timm's scheduler counts whole epochs."""
    cfg = plain(get_config("deit_ti16_224"))
    assert (cfg["epochs"], cfg["global_batch_size"]) == (300, 1024)
    assert cfg["lr_scheduler"] == {
        "name": "Cosine", "learning_rate": 1e-3, "warmup_epochs": 5, "start_lr": 1e-6,
        "end_lr": 1e-5, "decay_from_start": True, "per_epoch": True,
    }  # fmt: skip
    assert cfg["optimizer"]["weight_decay"] == 0.05 and "grad_clip" not in cfg["optimizer"]
    assert cfg["dataloader"]["train"]["sampler"]["repeats"] == 3 and cfg["ema"] is None
    fine = plain(get_config("deit_b16_384"))
    assert (fine["epochs"], fine["global_batch_size"]) == (30, 512)
    assert fine["lr_scheduler"]["learning_rate"] == fine["lr_scheduler"]["end_lr"] == 5e-6
    assert fine["optimizer"]["weight_decay"] == 1e-8
    assert plain(get_config("deit_s16_distilled_224"))["model"]["head"]["name"] == "DistilledHead"


def schedule_of(name, images=1281167):
    """The rates of a run on ImageNet-1k, of every step, and the steps of an epoch."""
    cfg = get_config(name)
    per_epoch = images // cfg.global_batch_size
    return build_schedule(
        plain(cfg.lr_scheduler), total_steps=cfg.epochs * per_epoch, steps_per_epoch=per_epoch,
        global_batch=cfg.global_batch_size,
    ), per_epoch  # fmt: skip


def test_after_their_warm_up_the_authors_rates_have_begun_to_fall():
    """At the first step of an epoch, by the cosine over all of them."""
    for name, warmup, epochs, peak, floor in (
        ("deit_ti16_224", 5, 300, 1e-3, 1e-5), ("cvt_13_224", 5, 300, 2e-3, 1e-5),
        ("t2t_vit_7_224", 10, 300, 1e-3, 1e-5), ("swin_t_224", 20, 300, 1e-3, 1e-5),
    ):  # fmt: skip
        rate, steps = schedule_of(name)
        assert rate(0) == pytest.approx(1e-6)
        assert rate(steps) == pytest.approx(1e-6 + (peak - 1e-6) / warmup, rel=1e-6)
        for epoch in (warmup, 150, epochs - 1):
            wanted = floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            assert rate(epoch * steps) == pytest.approx(wanted, rel=1e-9), (name, epoch)
    rate, steps = schedule_of("t2t_vit_7_224")
    assert rate(300 * steps) == rate(310 * steps - 1) == pytest.approx(1e-5), "cool-down"
    rate, steps = schedule_of("deit_ti16_224")
    assert rate(7 * steps) == rate(8 * steps - 1) != rate(8 * steps), "by the epoch"
    rate, steps = schedule_of("swin_t_224")
    assert rate(70 * steps) != rate(70 * steps + 1), "by the step"


def test_transformers_recipes_are_their_authors():
    swin, cvt, t2t, beit = (
        plain(get_config(name))
        for name in ("swin_t_224", "cvt_13_224", "t2t_vit_7_224", "beit_b16_224")
    )
    assert swin["optimizer"]["grad_clip"] == 5.0 and swin["epochs"] == 300
    assert swin["model"]["architecture"]["drop_path_rate"] == 0.2
    assert cvt["global_batch_size"] == 2048
    assert cvt["model"]["architecture"]["drop_path_rates"] == [0.0, 0.0, 0.1]
    assert t2t["ema"] == {"decay": 0.99996, "warmup": False} and t2t["epochs"] == 310
    assert t2t["optimizer"]["weight_decay"] == 0.03
    assert beit["optimizer"]["layer_decay"] == 0.65 and beit["epochs"] == 100
    assert beit["lr_scheduler"]["learning_rate"] == 4e-3
    for recipe in (swin, cvt, t2t, beit):
        (mixup,) = (
            part for part in recipe["dataloader"]["train"]["batch_transforms"]
            if part["name"] == "Mixup"
        )  # fmt: skip
        assert (mixup["mixup_alpha"], mixup["cutmix_alpha"]) == (0.8, 1.0)
        assert recipe["model"]["head"]["label_smoothing"] == 0.1
    large = plain(get_config("beit_l16_512"))
    assert large["optimizer"]["layer_decay"] == 0.9
    assert large["model"]["architecture"]["drop_path_rate"] == 0.4
    names = [part["name"] for part in large["dataloader"]["train"]["batch_transforms"]]
    assert names == ["Normalize"], "no mixing"


def test_resnets_recipes_are_torchvisions():
    """references/classification: train.py's defaults, and the second recipe of issue 3995."""
    cfg = plain(get_config("resnet50_224"))
    assert (cfg["epochs"], cfg["global_batch_size"]) == (90, 256)
    assert cfg["dataloader"]["train"]["sampler"]["batch_size"] == 32, "of 8 GPUs"
    assert cfg["optimizer"]["momentum"] == 0.9 and cfg["optimizer"]["weight_decay"] == 1e-4
    assert cfg["optimizer"]["groups"] == [{"parameters": "*", "weight_decay": 1e-4}]
    rate, steps = schedule_of("resnet50_224")
    assert [rate(epoch * steps) for epoch in (0, 29, 30, 59, 60, 89)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    assert "label_smoothing" not in cfg["model"]["head"] and cfg["ema"] is None
    newer = plain(get_config("resnet50_224_v2"))
    assert (newer["epochs"], newer["global_batch_size"]) == (600, 1024)
    train = newer["dataloader"]["train"]
    assert train["sampler"] == {"batch_size": 128, "repeats": 4}
    crop, _, augment, erasing = train["dataset"]["transforms"]
    assert (crop["size"], crop["interpolation"]) == (176, "bilinear")
    assert augment == {"name": "TrivialAugment"} and erasing["probability"] == 0.1
    _, mixup = train["batch_transforms"]
    assert (mixup["mixup_alpha"], mixup["cutmix_alpha"]) == (0.2, 1.0)
    assert newer["optimizer"]["weight_decay"] == 2e-5 and not newer["optimizer"]["groups"]
    assert newer["model"]["head"]["label_smoothing"] == 0.1
    rate, steps = schedule_of("resnet50_224_v2")
    assert rate(0) == pytest.approx(0.005) and rate(5 * steps) == pytest.approx(0.5)
    half = 5 + (600 - 5) // 2
    assert rate(half * steps) == rate((half + 1) * steps - 1) == pytest.approx(0.25, rel=0.01)
    # 32 of their steps with 0.99998, which they raise to 1024 images and 600 epochs.
    assert newer["ema"]["decay"] ** 32 == pytest.approx(1 - 2e-5 * 1024 * 32 / 600, abs=1e-5)
    others = [plain(get_config(f"resnet{depth}_224")) for depth in (18, 34, 101, 152)]
    for depth, other in zip((18, 34, 101, 152), others):
        assert other["model"]["architecture"]["name"] == f"resnet{depth}"
        assert other["lr_scheduler"] == cfg["lr_scheduler"]


def test_squashed_pictures_are_those_that_the_authors_squash():
    for name, squashed in (
        ("swin_b_384", True), ("cvt_13_384", True), ("swin_t_224", False), ("deit_b16_384", False),
        ("beit_b16_384", False), ("t2t_vit_14_384", False), ("vit_b16_384", False),
    ):  # fmt: skip
        (view,) = plain(get_config(name).dataloader.val.dataset.transforms)
        assert (view["name"] == "Resize") == squashed, name


# What a view resizes the shorter side of a picture to, by the publishers: 224 px at 0.875 and 0.9,
# 384 px at 0.875, 0.9 and 1.
@pytest.mark.parametrize("name, side", [
    ("deit_ti16_224", 256), ("vit_b16_224", 248), ("deit_b16_384", 438), ("t2t_vit_14_384", 426),
    ("vit_b16_384", 384), ("swin_t_224", 256), ("t2t_vit_7_224", 248), ("resnet50_224", 256),
    ("resnet50_224_v2", 232),
])  # fmt: skip
def test_the_shorter_side_is_what_the_publishers_resize_to(name, side):
    (view,) = plain(get_config(name).dataloader.val.dataset.transforms)
    assert min(TRANSFORMS.build(view).resized(900, 600)) == side


def test_vits_recipe_from_scratch_is_big_visions():
    """configs/vit_s16_i1k.py."""
    cfg = plain(get_config("vit_s16_224_scratch"))
    assert (cfg["epochs"], cfg["global_batch_size"]) == (90, 1024)
    architecture = cfg["model"]["architecture"]
    assert (architecture["pool"], architecture["positions"]) == ("mean", "sincos")
    assert cfg["optimizer"]["weight_decay"] == 0.1 and cfg["optimizer"]["grad_clip"] == 1.0
    assert cfg["lr_scheduler"]["warmup_steps"] == 10000
