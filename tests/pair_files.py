"""Shards of images with captions, as img2dataset writes them, and a small CLIP to train on them."""

import io
import json
import tarfile

from helpers import photograph, small_config


def shard(path, samples):
    """Writes a tar file of (key, {extension: bytes}), as img2dataset does."""
    with tarfile.open(path, "w") as archive:
        for key, fields in samples:
            for extension, content in fields.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def encoded(seed=0):
    file = io.BytesIO()
    photograph(seed, (20, 16)).save(file, format="PNG")
    return file.getvalue()


def samples(first, count, **changes):
    made = []
    for i in range(first, first + count):
        facts = {"key": f"{i:09d}", "caption": f"json caption {i}", "status": "success"}
        fields = {
            "png": encoded(i),
            "json": json.dumps(facts).encode(),
            "txt": f"caption {i} 第".encode(),
        }
        made.append((f"{i:09d}", {**fields, **changes}))
    return made


def clip_config(photos, root, model=None, **changes):
    """Returns the config of a small CLIP.

    Args:
        photos: of ``small_config``.
        root: the folder of the shards of train and of val.
        model: changes to the section of the network.
        changes: to other sections.
    """
    cfg = small_config(photos, **changes)
    cfg["model"] = {
        "name": "CLIP",
        "architecture": {
            "name": "CLIPVisionTransformer",
            "img_size": 16,
            "patch_size": 8,
            "embed_dim": 16,
            "num_blocks": 1,
            "num_heads": 2,
            "drop_rate": 0.1,
        },
        "text": {"context": 9, "embed_dim": 8, "num_blocks": 1, "num_heads": 2},
        "embed_dim": 8,
        **(model or {}),
    }
    cfg["epochs"] = changes.get("epochs", 2)
    section = cfg["dataloader"]["train"]
    section["dataset"]["transforms"] = [
        {"name": "RandomResizedCrop", "size": 16, "scale": [0.5, 1.0]},
        {"name": "Tokenize", "context": 9},
    ]
    section["batch_transforms"].pop()  # Mixup
    del cfg["dataloader"]["test"]
    for part, its in cfg["dataloader"].items():
        its["dataset"].update(name="ImageTextShards", dataroot=str(root / part))
    return cfg
