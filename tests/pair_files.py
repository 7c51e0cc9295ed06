"""Shards of images with captions, as img2dataset writes them."""

import io
import json
import tarfile

from helpers import photograph


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
