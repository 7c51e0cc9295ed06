"""``tools/train.py --dry-run``: the recipe as it will be, without touching anything else."""

import re

import numpy as np
import pytest
from helpers import run_here
from PIL import Image

from passl.cli import train as train_command
from passl.datasets import with_synthetic_data
from passl.inspection import pictures
from passl.inspection.dry_run import dry_run
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config, shipped_configs
from passl.utils.errors import PasslError


def table(text):
    """The rows of the printed table: a name and the lines beside it."""
    rows, name = {}, ""
    width = max(len(line.split("  ")[0]) for line in text.splitlines() if line[:1] != " ")
    for line in text.splitlines():
        name = line[:width].strip() or name
        rows.setdefault(name, []).append(line[width + 2 :])
    return rows


def check_pictures(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["augmented.png", "schedule.png"]
    for path, least in (("schedule.png", 50), ("augmented.png", 1000)):
        with Image.open(folder / path) as image:
            assert len(image.convert("RGB").getcolors(10**7)) > least, path


@pytest.mark.smoke
def test_the_table_says_what_the_run_will_be(config_file, tmp_path):
    """60 photographs, 8 a step, 3 epochs; the figures are worked out by hand."""
    code, out, err = run_here(
        "train", "-c", config_file(), "--dry-run", "--output-dir", tmp_path / "run"
    )
    assert code == 0, err
    rows = table(out)
    # Stem 3·64·64 + 64; a block 2·(64 + 64), 4·8 + 8, 8·4 + 4, 64·64 + 64 twice; norm; head
    # 64·3 + 3.
    block_matrices, block_rest = 4 * 8 + 8 * 4 + 2 * 64 * 64, 4 * 64 + 8 + 4 + 2 * 64
    decayed = 3 * 64 * 64 + 2 * block_matrices + 64 * 3
    rest = 64 + 2 * block_rest + 2 * 64 + 3
    assert rows["parameters"] == [f"{decayed + rest:,}"]
    assert rows["epochs"] == ["3 of 7 steps: 21 steps, 168 images"]
    assert rows["warm-up"] == ["3 steps, 0.429 epochs"]
    assert rows["learning rate"][0].startswith("Cosine, peak 0.01,")
    assert rows["images"] == ["train 60, val 13, test 11 (ImageFolder)"]
    groups = rows["groups"]
    assert f"decay 0.05: {decayed:,} parameters in 10 tensors" in groups
    assert f"no decay: {rest:,} parameters in 20 tensors" in groups
    place = groups.index(f"no decay: {rest:,} parameters in 20 tensors")
    assert all(line.strip().endswith("weight") for line in groups[1:place])
    assert "  backbone.blocks.*.norm1.weight" in groups[place:] and len(groups) == 2 + 6 + 12
    assert rows["augmentation"] == ["RandomResizedCrop(size=16)", "RandomHorizontalFlip()"]
    assert rows["of a batch"][-1] == "Mixup()"
    # 4 patches of 192 values; tokens 4·8·2 for each of 64 channels, channels 64·64·2 for each of
    # the 4 tokens.
    macs = 4 * 192 * 64 + 2 * (64 * 64 + 4 * 64 * 64 * 2) + 64 * 3
    assert rows["operations"][0].startswith(f"{macs / 1e9:.4g} G multiply-adds")
    first = float(rows["two steps"][0].split("loss ")[1].split(",")[0])
    assert first == pytest.approx(np.log(3), abs=1e-3), "the head begins at zero"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry-run"]
    check_pictures(tmp_path / "run" / "dry-run")


# What makes a network of a family narrow, by the folder of its configs.
COLUMN = {"num_blocks": 2, "embed_dim": 32, "channels_mlp_dim": 32}
PLAIN = {"num_blocks": 2, "embed_dim": 32, "num_heads": 2}
NARROW = {
    "mlp_mixer": COLUMN,
    "resmlp": COLUMN,
    "gmlp": COLUMN,
    "cyclemlp": {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 32]},
    "vip": {"depths": [1, 1, 1, 1], "embed_dims": [32, 32, 32, 32]},
    "vit": PLAIN,
    "deit": PLAIN,
    "swin": {"embed_dim": 4, "num_heads": [1, 2, 2, 4], "depths": [1, 2, 1, 1]},
    "beit": PLAIN,
    "t2t_vit": {**PLAIN, "token_dim": 8},
    "cvt": {"embed_dims": [8, 16, 32], "depths": [1, 1, 1], "num_heads": [1, 1, 2]},
    "resnet": {"blocks": [1, 1, 1, 1], "width": 8},
    "convmlp": {"stem_channels": 8, "depths": [1, 1, 1], "embed_dims": [8, 16, 32]},
}


METHODS = ("simclr", "moco", "byol")  # whose configs have networks of several families


def narrow(name):
    """What makes the network of a shipped config narrow."""
    model = get_config(name).model
    family = shipped_configs()[name].parent.name
    tower = model.architecture.name.lower()
    if family in METHODS:
        family = "resnet" if tower.startswith("resnet") else "mlp_mixer"
    if family == "clip":
        family = "resnet" if "resnet" in tower else "vit"
    overrides = [f"model.architecture.{key}={value}" for key, value in NARROW[family].items()]
    if "text" in model:
        overrides += [f"model.text.{key}={value}" for key, value in PLAIN.items()]
        if family == "vit":  # whose features are as wide as the network
            overrides.append("model.embed_dim=32")
    if name == "clip_vit_b32_wit":  # made-up pairs are fewer than what its warm-up takes
        overrides.append("lr_scheduler.warmup_steps=100")
    return overrides


# Narrow, these are as another config of their family, but for a figure or two.
LARGER = re.compile(
    "convmlp_[lm]|cyclemlp_b[2-5]|gmlp_(b|ti)16|mlp-mixer_([hls][0-9]|b32)|resmlp_(24|36|big)|vip_[lm]"
    "|vit_(?!b16_|s16_224_scratch)|deit_(?!ti16)|swin_(?!t_)|beit_(?!b16_224)|cvt_(?!13_224)|t2t_vit_(?!7_)"
)


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "_IMAGES", 1)
    monkeypatch.setattr(pictures, "_DRAWS", 2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.full] if LARGER.match(name) else [])
        for name in shipped_configs()
    ],
)
def test_every_shipped_config_runs_on_made_up_images(name, tmp_path, few_pictures):
    """With a narrow network and few pictures, so that it takes a second; the rest is as shipped."""
    overrides = narrow(name)
    cfg = get_config(name, [*overrides, f"output_dir={tmp_path}"])
    if cfg.optimizer is None:  # it is for evaluation alone
        build_architecture(cfg.model)
        return
    cfg = with_synthetic_data(cfg)
    rows = dict(dry_run(cfg))
    assert "(Synthetic" in rows["images"] and "loss" in rows["two steps"]
    check_pictures(tmp_path / "dry-run")


def test_the_papers_recipe_is_the_papers(few_pictures):
    """arXiv 2105.01601, table 4, and big_vision's mlp_mixer_i1k.py."""
    rows = dict(dry_run_of("mlp-mixer_b16_224", "model.architecture.num_blocks=1"))
    assert "drop_path_rate=0.1" in rows["network"] and "bias_init=-6.9" in rows["head"]
    assert rows["epochs"] == "300 of 312 steps: 93,600 steps, 383,385,600 images"
    assert rows["global batch"].startswith("4,096: batches of 128, accumulated 32 on 1, ")
    assert rows["learning rate"].startswith("Linear, peak 0.001,")
    assert rows["warm-up"] == "10,000 steps, 32.1 epochs"
    assert rows["optimizer"] == "AdamW(beta1=0.9, beta2=0.999, weight_decay=0.1, grad_clip=1)"
    assert rows["augmentation"].splitlines()[1:] == [
        "RandomHorizontalFlip()", "RandAugment(layers=2, magnitude=15)",
    ]  # fmt: skip
    assert rows["of a batch"].splitlines()[1] == "Mixup(mixup_alpha=0.5)"


def test_rates_and_groups_of_their_own_are_shown(few_pictures):
    rows = dict(
        dry_run_of(
            "mlp-mixer_b16_224_finetune",
            "model.architecture.num_blocks=2",
            "optimizer.layer_decay=0.5",
            'optimizer.groups=[{parameters: "head.*", lr_scale: 10}]',
            "lr_scheduler.reference_batch_size=256",
        )
    )
    assert "peak 0.06 (0.03 at 256 images a step, linear rule)" in rows["learning rate"]
    lines = [line for line in rows["groups"].splitlines() if not line.startswith("  ")]
    # Stem, two blocks with the norm in the last, head.
    rates = [line.partition(":")[0] for line in lines]
    assert rates == [f"no decay, rate × {x}" for x in ("0.125", "0.25", "0.5", "10")]


def dry_run_of(name, *overrides):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cfg = get_config(name, [*overrides, f"output_dir={folder}"])
        return dry_run(with_synthetic_data(cfg))


def test_what_training_would_stop_at_stops_it(config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_here("train", "-c", "mlp-mixer_b16_224", "--dry-run")
    assert code == 2 and out == ""
    assert "data/ILSVRC2012" in err and len(err.strip().splitlines()) == 1
    path = config_file()
    assert train_command.main(["-c", path, "--dry-run", "--resume", "auto"]) == 2
    assert "leave --resume out" in capsys.readouterr().err
    with pytest.raises(PasslError, match="warm-up of 30 steps does not fit"):
        dry_run(get_config(path, ["lr_scheduler.warmup_steps=30", f"output_dir={tmp_path / 'x'}"]))
    (tmp_path / "file").write_text("")
    with pytest.raises(PasslError, match="file/dry-run: cannot be written"):
        dry_run(get_config(path, [f"output_dir={tmp_path / 'file'}"]))


def test_weights_that_do_not_fit_are_found_out(config_file, tmp_path, capsys):
    (tmp_path / "weights.npz").write_bytes(b"PK\x03\x04")
    given = ["-c", config_file(), "--dry-run", "--pretrained", str(tmp_path / "weights.npz")]
    assert train_command.main([*given, "--output-dir", str(tmp_path / "run")]) == 2
    assert "weights.npz" in capsys.readouterr().err and not (tmp_path / "run").exists()
