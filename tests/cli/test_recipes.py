"""The recipes of others, as their records say them."""

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
