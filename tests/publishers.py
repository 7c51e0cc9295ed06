"""The files of a reduced Mixer as each publisher names and stores them, written out by hand.

From the publishers' own code, not from the tables of ``passl``: see the sources named there.
"""

import zipfile

import numpy as np

from passl.weights.formats import torch

NETWORK = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "num_blocks": 2,
    "tokens_mlp_dim": 10,
    "channels_mlp_dim": 40,
}
CLASSES = 7


def own(classes=CLASSES, seed=0, **network):
    """Random arrays under PASSL's names, every one of them different from an initial value."""
    sizes = {**NETWORK, **network}
    rng = np.random.default_rng(seed)
    tokens = (sizes["img_size"] // sizes["patch_size"]) ** 2
    dim, patch = sizes["embed_dim"], sizes["patch_size"]
    arrays = {
        "backbone.stem.proj.weight": rng.normal(size=(dim, 3, patch, patch)),
        "backbone.stem.proj.bias": rng.normal(size=dim),
        "backbone.norm.weight": rng.normal(size=dim),
        "backbone.norm.bias": rng.normal(size=dim),
        "head.fc.weight": rng.normal(size=(dim, classes)),
        "head.fc.bias": rng.normal(size=classes),
    }
    for i in range(sizes["num_blocks"]):
        block = f"backbone.blocks.{i}"
        for norm in ("norm1", "norm2"):
            arrays[f"{block}.{norm}.weight"] = rng.normal(size=dim)
            arrays[f"{block}.{norm}.bias"] = rng.normal(size=dim)
        widths = {
            "mlp_tokens": (tokens, sizes["tokens_mlp_dim"]),
            "mlp_channels": (dim, sizes["channels_mlp_dim"]),
        }
        for mlp, (width, hidden) in widths.items():
            arrays[f"{block}.{mlp}.fc1.weight"] = rng.normal(size=(width, hidden)) / width**0.5
            arrays[f"{block}.{mlp}.fc1.bias"] = rng.normal(size=hidden)
            arrays[f"{block}.{mlp}.fc2.weight"] = rng.normal(size=(hidden, width)) / hidden**0.5
            arrays[f"{block}.{mlp}.fc2.bias"] = rng.normal(size=width)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def google(arrays):
    """vit_jax/models_mixer.py: Flax names; convolutions are height, width, in, out."""
    theirs = {
        "stem/kernel": arrays["backbone.stem.proj.weight"].transpose(2, 3, 1, 0),
        "stem/bias": arrays["backbone.stem.proj.bias"],
        "pre_head_layer_norm/scale": arrays["backbone.norm.weight"],
        "pre_head_layer_norm/bias": arrays["backbone.norm.bias"],
        "head/kernel": arrays["head.fc.weight"],
        "head/bias": arrays["head.fc.bias"],
    }
    for i in range(blocks_of(arrays)):
        ours, block = f"backbone.blocks.{i}", f"MixerBlock_{i}"
        theirs[f"{block}/LayerNorm_0/scale"] = arrays[f"{ours}.norm1.weight"]
        theirs[f"{block}/LayerNorm_0/bias"] = arrays[f"{ours}.norm1.bias"]
        theirs[f"{block}/LayerNorm_1/scale"] = arrays[f"{ours}.norm2.weight"]
        theirs[f"{block}/LayerNorm_1/bias"] = arrays[f"{ours}.norm2.bias"]
        for mixing, mlp in (("token_mixing", "mlp_tokens"), ("channel_mixing", "mlp_channels")):
            for dense, fc in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
                theirs[f"{block}/{mixing}/{dense}/kernel"] = arrays[f"{ours}.{mlp}.{fc}.weight"]
                theirs[f"{block}/{mixing}/{dense}/bias"] = arrays[f"{ours}.{mlp}.{fc}.bias"]
    return theirs


def timm(arrays, linear=np.transpose):
    """timm/models/mlp_mixer.py; torch stores a linear layer as out, in."""
    theirs = {}
    for name, array in arrays.items():
        name = name.replace("backbone.", "").replace("head.fc.", "head.")
        theirs[name] = linear(array) if array.ndim == 2 else array
    return theirs


def timm_in_paddle(arrays):
    """Ports that keep timm's names in Paddle's layout."""
    return timm(arrays, linear=np.asarray)


def mmpretrain(arrays):
    """mmpretrain/models/backbones/mlp_mixer.py, torch's layout."""
    theirs = {
        "backbone.patch_embed.projection.weight": arrays["backbone.stem.proj.weight"],
        "backbone.patch_embed.projection.bias": arrays["backbone.stem.proj.bias"],
        "backbone.ln1.weight": arrays["backbone.norm.weight"],
        "backbone.ln1.bias": arrays["backbone.norm.bias"],
        "head.fc.weight": arrays["head.fc.weight"].T,
        "head.fc.bias": arrays["head.fc.bias"],
    }
    for i in range(blocks_of(arrays)):
        ours, layer = f"backbone.blocks.{i}", f"backbone.layers.{i}"
        for leaf in ("weight", "bias"):
            theirs[f"{layer}.ln1.{leaf}"] = arrays[f"{ours}.norm1.{leaf}"]
            theirs[f"{layer}.ln2.{leaf}"] = arrays[f"{ours}.norm2.{leaf}"]
            for mix, mlp in (("token_mix", "mlp_tokens"), ("channel_mix", "mlp_channels")):
                theirs[f"{layer}.{mix}.layers.0.0.{leaf}"] = arrays[f"{ours}.{mlp}.fc1.{leaf}"].T
                theirs[f"{layer}.{mix}.layers.1.{leaf}"] = arrays[f"{ours}.{mlp}.fc2.{leaf}"].T
    return theirs


def passl_v1(arrays):
    """passl/modeling/{backbones,heads}/ of PASSL 1.0."""
    return {name.replace("head.fc.", "head.fc_cls."): array for name, array in arrays.items()}


def paddlevit(arrays):
    """PaddleViT, image_classification/MLP-Mixer/mlp_mixer.py."""
    theirs = {}
    for name, array in arrays.items():
        name = name.replace("backbone.", "").replace("head.fc.", "head.")
        name = name.replace("stem.proj.", "patch_embed.patch_embed.")
        theirs[name.replace("blocks.", "mixer_layers.")] = array
    return theirs


def ppim(arrays):
    """Paddle-Image-Models, ppim/models/mixer.py."""
    theirs = {}
    for name, array in arrays.items():
        for ours, there in (
            ("backbone.", ""), ("head.fc.", "head."), ("stem.proj.", "stem."),
            ("norm1", "norm_0"), ("norm2", "norm_1"), ("fc1", "fc_0"), ("fc2", "fc_1"),
            ("mlp_tokens", "token_mixing"), ("mlp_channels", "channel_mixing"),
        ):  # fmt: skip
            name = name.replace(ours, there)
        theirs["pre_head_layer_" + name if name.startswith("norm.") else name] = array
    return theirs


def blocks_of(arrays):
    return sum(name.endswith("norm1.bias") for name in arrays)


def write_under(path, key, arrays):
    """Writes a torch file whose mapping stands under a key: ``{"model": {...}}``."""
    torch.write(str(path), arrays)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickle = members["archive/data.pkl"]
    name = key.encode()
    start = b"\x80\x02}X" + len(name).to_bytes(4, "little") + name  # an empty dict, its key
    members["archive/data.pkl"] = start + pickle[2:-1] + b"s."  # set the item, stop
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
