"""Makes the weight files of tests/golden/, and ``answers.npz``, what their makers' code answers.

A reduced Mixer with random parameters, in which no two sizes are the same, twice:

* built with timm's MlpMixer and written by safetensors and torch, also under mmpretrain's names;
* built with Google's own Flax code and written by NumPy under names joined with ``/``, as the
  released files are. That code is not copied here: give a checkout of
  https://github.com/google-research/vision_transformer.

``answers.npz`` holds ``pixels``, and for both ``<maker>/logits`` and ``<maker>/block_<i>``.

    python tests/reference/make_golden.py --vision-transformer CHECKOUT

Run with Python 3.11, torch 2.13.0, timm 1.0.31, safetensors 0.8.0, flax 0.12.8, jax 0.10.2, NumPy
2.4.6 and vision_transformer at c6de1e5, on a CPU. Run again there it gives the same bytes, but for
the two ``.legacy.pth``, in which torch numbers the storages by their addresses.
"""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import torch
from flax import traverse_util
from mixers import answers, draw, randomize, save
from timm.models.mlp_mixer import MlpMixer

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

HEIGHT_WIDTH, PATCH = (12, 8), (4, 2)  # 3×4 = 12 tokens
BLOCKS, CHANNELS, TOKENS_MLP, CHANNELS_MLP, CLASSES = 3, 16, 10, 40, 7

# timm's name to mmpretrain's (mmpretrain/models/backbones/mlp_mixer.py; FFN is mmcv's).
MMPRETRAIN = (
    ("stem.proj.", "backbone.patch_embed.projection."),
    ("blocks.", "backbone.layers."),
    ("mlp_tokens.fc1.", "token_mix.layers.0.0."),
    ("mlp_tokens.fc2.", "token_mix.layers.1."),
    ("mlp_channels.fc1.", "channel_mix.layers.0.0."),
    ("mlp_channels.fc2.", "channel_mix.layers.1."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    ("head.", "head.fc."),
)


def make_timm(pixels):
    model = MlpMixer(
        num_classes=CLASSES,
        img_size=HEIGHT_WIDTH,
        patch_size=PATCH,
        num_blocks=BLOCKS,
        embed_dim=CHANNELS,
        mlp_ratio=(TOKENS_MLP / CHANNELS, CHANNELS_MLP / CHANNELS),
    )
    state = randomize(model, seed=0).state_dict()
    for suffix in ("safetensors", "pth", "legacy.pth", "bin"):
        save(state, GOLDEN / f"timm.{suffix}")
    renamed = OrderedDict()
    for name, tensor in state.items():
        name = "backbone.ln1." + name[5:] if name.startswith("norm.") else name
        for old, new in MMPRETRAIN:
            name = name.replace(old, new)
        renamed[name] = tensor
    meta = {"mmcls_version": "0.18.0", "epoch": 300, "CLASSES": ["kiwi", "pear"], "config": "…"}
    save({"meta": meta, "state_dict": renamed}, GOLDEN / "mmpretrain.legacy.pth")
    return answers(model, pixels)


def make_google(pixels, checkout):
    sys.path.insert(0, checkout)
    from vit_jax import models_mixer

    class Patches:
        size = PATCH

    model = models_mixer.MlpMixer(
        patches=Patches,
        num_classes=CLASSES,
        num_blocks=BLOCKS,
        hidden_dim=CHANNELS,
        tokens_mlp_dim=TOKENS_MLP,
        channels_mlp_dim=CHANNELS_MLP,
    )
    images = pixels.transpose(0, 2, 3, 1)
    initial = model.init(jax.random.PRNGKey(0), images, train=False)["params"]
    rng = np.random.default_rng(1)
    flat = {
        name: draw(rng, name, array.shape, int(np.prod(array.shape[:-1])))
        for name, array in traverse_util.flatten_dict(initial, sep="/").items()
    }
    np.savez(GOLDEN / "google.npz", **flat)
    logits, state = model.apply(
        {"params": traverse_util.unflatten_dict(flat, sep="/")},
        images,
        train=False,
        capture_intermediates=lambda module, _: type(module).__name__ == "MixerBlock",
    )
    blocks = state["intermediates"]
    found = {f"block_{i}": blocks[f"MixerBlock_{i}"]["__call__"][0] for i in range(BLOCKS)}
    return {name: np.asarray(array) for name, array in {**found, "logits": logits}.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vision-transformer", required=True, metavar="CHECKOUT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    images = np.random.default_rng(2).standard_normal((2, 3, *HEIGHT_WIDTH), np.float32)
    makers = {
        "timm": make_timm(images),
        "google": make_google(images, arguments.vision_transformer),
    }
    arrays = {f"{m}/{name}": a for m, found in makers.items() for name, a in found.items()}
    np.savez(GOLDEN / "answers.npz", pixels=images, **arrays)
    for path in sorted(GOLDEN.iterdir()):
        print(f"{path.stat().st_size:8d} {path.name}")
