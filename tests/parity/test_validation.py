"""End to end: the command line counts as many photographs right as timm's validation does."""

import json

import pytest
from helpers import ROOT, start_tool

GROCERIES = ROOT / "data" / "groceries"


# timm's name, the config here, and what differs from it.
NETWORKS = {
    "mixer_s32_224": (
        "mlp-mixer_b16_224",
        {
            "model.architecture.name": "mlp_mixer_s32_224",
            "model.head.loss": "softmax",  # as timm's validation has it
        },
    ),
    "vit_tiny_patch16_224": ("vit_ti16_224", {}),
    "swin_tiny_patch4_window7_224": (
        "swin_t_224",
        {
            "dataloader.val.dataset.transforms": "[{name: ResizeCenterCrop, size: 224, "
            "crop_ratio: 0.9, interpolation: bicubic}]",
        },
    ),
}


# Seen with timm 1.0.31, torch 2.13.0 and Paddle 3.3.1: the Mixer 234 and 510 of 661 by both (Top-1
# 35.40 %, Top-5 77.16 %), losses 2.3333690 and 2.3333694.
@pytest.mark.reference
@pytest.mark.parametrize("name", NETWORKS)
def test_top1_and_top5_are_timms(reference, tmp_path, name):
    if not GROCERIES.is_dir():
        pytest.skip("needs the supermarket photographs: bash scripts/fetch_groceries.sh")
    weights, result = tmp_path / "weights.safetensors", tmp_path / "theirs.json"
    reference(
        "timm_validation.py", name, GROCERIES / "train", GROCERIES / "test",
        weights, result, "--batch-size", 50,
    )  # fmt: skip
    theirs = json.loads(result.read_text())
    config, options = NETWORKS[name]
    options = {
        "model.head.num_classes": 14,
        "dataloader.val.dataset": f"{{name: ImageFolder, dataroot: {GROCERIES / 'test'}}}",
        "dataloader.val.sampler.batch_size": 64,
        **options,
    }
    process = start_tool(
        "eval", "-c", config,
        *(part for key, value in options.items() for part in ("-o", f"{key}={value}")),
        "--weights", weights, "--json", tmp_path / "ours.json", "--device", "cpu",
    )  # fmt: skip
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    ours = json.loads((tmp_path / "ours.json").read_text())
    weights.unlink()

    assert theirs["classes"] == sorted(path.name for path in (GROCERIES / "test").iterdir())
    samples = theirs["samples"]
    assert ours["samples"] == samples == 661
    # Both end with a short batch, of different sizes: 11 and 21.
    assert theirs["last_batch"] == 661 % 50 and 661 % 64 == 21
    # Between chance (1 and 5 of 14) and everything.
    assert 0.2 < theirs["correct1"] / samples < 0.9 and 0.5 < theirs["correct5"] / samples < 0.95
    print(f"theirs {theirs}\nours   {ours}")
    for k in (1, 5):
        correct = ours[f"top{k}"] * samples / 100
        assert correct == pytest.approx(round(correct), abs=1e-6)
        assert round(correct) == theirs[f"correct{k}"], f"Top-{k}"
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
