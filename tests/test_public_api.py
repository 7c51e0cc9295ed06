"""The public seed of the API runs as it stands, forever."""

import os
from pathlib import Path

import paddle
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.smoke
def test_five_lines(monkeypatch):
    monkeypatch.chdir(ROOT)
    # fmt: off
    from passl.modeling.backbones import build_backbone
    from passl.modeling.heads import build_head
    from passl.utils.config import get_config
    cfg = get_config('configs/mlp_mixer/mlp-mixer_b16_224.yaml')
    logits = build_head(cfg.model.head)(build_backbone(cfg.model.architecture)(paddle.randn([2, 3, 224, 224])))  # noqa: E501
    # fmt: on
    assert list(logits.shape) == [2, 1000]
    logits.sum().backward()


def test_every_shipped_config_is_valid_and_named():
    from passl.utils.config import get_config, shipped_configs

    shipped = shipped_configs()
    assert {"mlp-mixer_b16_224", "mlp-mixer_l16_224", "mlp-mixer_groceries"} <= set(shipped)
    for name in shipped:
        assert get_config(name).model
    assert get_config("vip_s7_224") == get_config(shipped["vip_s7_224"])
    plain = [name.replace("-", "_") for name in shipped]
    assert len(set(plain)) == len(plain)
    mixer = get_config("mlp-mixer_b32_224")
    for spelling in ("mlp_mixer_b32_224", "configs/mlp_mixer/mlp_mixer_b32_224.yaml"):
        assert get_config(spelling) == mixer and mixer.output_dir == "output/mlp-mixer_b32_224"


def test_no_shipped_config_repeats_the_size_of_the_features():
    """So that another backbone is one option and not two."""
    from passl.utils.config import get_config, shipped_configs

    for name in shipped_configs():
        assert "in_channels" not in get_config(name).model.get("head", {})


def test_a_head_alone_takes_the_size_of_its_features():
    from passl.modeling.heads import build_head
    from passl.utils.errors import PasslError

    head = build_head({"name": "ClassificationHead", "num_classes": 3, "label_smoothing": 0.1})
    head.eval()
    assert not head.parameters()
    logits = head(paddle.ones([2, 5]))
    assert [p.shape for p in head.parameters()] == [[5, 3], [3]]
    loss = head.loss({"logits": logits}, {"label": paddle.to_tensor([0, 1])})
    assert not head.head.training and float(loss) == pytest.approx(1.0986123)
    with pytest.raises(PasslError, match="label_smoothing"):
        build_head({"name": "ClassificationHead", "label_smoothing": 2.0})(paddle.ones([2, 5]))


def test_imagenet_configs_say_what_the_published_numbers_need():
    from passl.utils.config import get_config

    for name in ("mlp-mixer_b16_224", "mlp-mixer_l16_224"):
        cfg = get_config(name)
        assert cfg.dataloader.val.dataset.transforms == [
            {
                "name": "ResizeCenterCrop",
                "size": 224,
                "crop_ratio": 0.875,
                "interpolation": "bicubic",
            }
        ]
        for split in ("train", "val"):
            normalize, *mixing = cfg.dataloader[split].batch_transforms
            assert normalize == {"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}
            wanted = [{"name": "Mixup", "mixup_alpha": 0.5}] if split == "train" else []
            assert mixing == wanted
        assert cfg.optimizer == {
            "name": "AdamW",
            "beta1": 0.9,
            "beta2": 0.999,
            "weight_decay": 0.1,
            "grad_clip": 1.0,
        }
        assert cfg.lr_scheduler.name == "Linear" and cfg.lr_scheduler.warmup_steps == 10000
        assert cfg.global_batch_size == 4096 and cfg.epochs == 300


def test_relative_paths_need_no_checkout(monkeypatch, tmp_path):
    from passl.utils.config import get_config

    monkeypatch.chdir(tmp_path)
    assert get_config("configs/mlp_mixer/mlp-mixer_b16_224.yaml").epochs == 300
    assert not os.listdir(tmp_path)


def test_old_names_of_modules_still_import():
    import importlib

    from passl.moved import MOVED

    for old, new in MOVED.items():
        with pytest.warns(DeprecationWarning, match="now"):
            module = importlib.import_module(old)
        assert module is importlib.import_module(new)
        assert module.__name__ == module.__spec__.name == new
    from passl.datasets.images import RgbImage  # noqa: F401  a module until it was a folder
