"""A hundred steps of training, here and by timm's network in PyTorch: the same losses."""

import json

import numpy as np
import paddle
import pytest

from passl.distributed.processes import Processes
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.modeling.architectures import build_architecture
from passl.solver import build_optimizer, build_schedule
from passl.utils.config import get_config

STEPS, BATCH, CLASSES = 100, 16, 7
NETWORK = {"img_size": 32, "patch_size": 8, "num_blocks": 3, "embed_dim": 24}
# timm gives the hidden sizes as shares of the embedding.
TIMM = {**NETWORK, "mlp_ratio": [0.5, 4.0], "num_classes": CLASSES}
OURS = {"name": "MlpMixer", **NETWORK, "tokens_mlp_dim": 12, "channels_mlp_dim": 96}

CLIP = 2.0
# The largest difference of a loss, relative to it. Seen with torch 2.13.0, timm 1.0.31 and Paddle
# 3.3.1: in float64 1e-10 with AdamW, and 8e-8 and 1.7e-7 with LAMB and SGD, whose betas and
# momentum Paddle takes as float32; in float32 3.7e-7 to 9.1e-7.
BOUNDS = {"float64": 1e-6, "float32": 1e-5}


def make_data():
    """Batches of which a network can learn something, their labels, mixing and rates."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (STEPS, BATCH))
    patterns = rng.normal(0, 1, (CLASSES, 3, 32, 32))
    images = 0.4 * patterns[labels] + rng.normal(0, 1, (STEPS, BATCH, 3, 32, 32))
    partners = np.stack([np.roll(rng.permutation(BATCH), 1) for _ in range(STEPS)])
    shares = 1 - np.maximum(*(lambda a: (a, 1 - a))(rng.beta(0.5, 0.5, (STEPS, 1))))
    return {
        "images": images,
        "labels": labels,
        "partners": partners,
        "shares": np.repeat(shares, BATCH, axis=1),
    }


@pytest.mark.reference
@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "optimizer, loss, rate",
    [("AdamW", "softmax", 3e-3), ("AdamW", "sigmoid", 3e-3), ("SGD", "softmax", 0.1),
     ("LAMB", "softmax", 1e-2)],
)  # fmt: skip
def test_the_losses_are_timms(reference, tmp_path, optimizer, loss, rate, dtype):
    data = make_data()
    cfg = {"name": "Linear", "learning_rate": rate, "warmup_steps": 10}
    schedule = build_schedule(cfg, STEPS, STEPS, BATCH)
    data["rates"] = np.array([schedule(step) for step in range(STEPS)])

    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        paddle.seed(3)
        architecture = build_architecture(
            {
                "architecture": OURS,
                "head": {"name": "ClassificationHead", "num_classes": CLASSES, "loss": loss,
                         "init": "lecun_normal", "bias_init": -1.8 if loss == "sigmoid" else 0.0},
            }
        )  # fmt: skip
        losses = train_here(architecture, optimizer, dtype, data, tmp_path)
    finally:
        paddle.set_default_dtype(before)
    recipe = {
        "network": TIMM, "dtype": dtype, "optimizer": optimizer, "weight_decay": 0.1,
        "grad_clip": CLIP, "loss": loss,
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    reference(
        "timm_training.py", tmp_path / "given.npz", tmp_path / "out.npz", tmp_path / "recipe.json"
    )
    with np.load(tmp_path / "out.npz") as arrays:
        theirs = dict(arrays)
    relative = np.abs(losses - theirs["losses"]) / theirs["losses"]
    clipped = (theirs["norms"] > CLIP).sum()
    print(f"{optimizer} {loss} {dtype}: largest difference {relative.max():.1e}, {clipped} clipped")
    assert relative.max() < BOUNDS[dtype]
    # The recipe did something: it learned, and it clipped some steps and not all.
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5]) and 0 < clipped < STEPS
    if dtype == "float64":
        for name, array in named_as_timm(architecture).items():
            np.testing.assert_allclose(array, theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def named_as_timm(architecture):
    """The parameters by timm's names, in PyTorch's layout."""
    found = {}
    for name, parameter in architecture.named_parameters():
        array = parameter.numpy().copy()
        name = name.replace("backbone.", "").replace("head.fc", "head")
        found[name] = array.T if array.ndim == 2 else array
    return found


def train_here(architecture, optimizer, dtype, data, folder):
    """The loss of each step; the batches and the first weights go to ``given.npz``."""
    weights = {f"weights/{name}": a for name, a in named_as_timm(architecture).items()}
    np.savez(folder / "given.npz", **data, **weights)
    cfg = get_config("mlp-mixer_cifar10")
    decay = {} if optimizer == "SGD" else {"weight_decay": 0.1}
    solver = build_optimizer(
        {"name": optimizer, "grad_clip": CLIP, "weight_decay": 0.1, **decay}, architecture
    )
    execution = Execution(cfg, architecture, solver, Precision(None, "cpu"), Processes())
    architecture.train()
    losses = []
    for step in range(STEPS):
        image = data["images"][step]
        partners, share = data["partners"][step], data["shares"][step]
        w = share[:, None, None, None]
        batch = {
            "image": paddle.to_tensor((image * (1 - w) + image[partners] * w).astype(dtype)),
            "label": paddle.to_tensor(data["labels"][step]),
            "partner_label": paddle.to_tensor(data["labels"][step][partners]),
            "partner_weight": paddle.to_tensor(share.astype(dtype)),
        }
        losses.append(float(execution.backward(batch, 1.0, True)[0]))
        assert bool(solver.step(float(data["rates"][step])))
    return np.array(losses)
