#!/usr/bin/env python3
"""What one gets on a class-folder set without learning: the nearest training image.

Every image is squeezed to 32×32 pixels; a test image gets the class of the training (or
validation) image at the smallest Euclidean distance.

usage: python benchmarks/nearest_neighbour.py [data/groceries] [--json FILE]
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from passl.datasets import build_dataset


def thumbnails(root: Path, split: str, class_names=None):
    """Returns pixels, float32 ``[n, 3072]``, and labels; and the class names."""
    dataset = build_dataset({"name": "ImageFolder", "dataroot": str(root / split)})
    dataset.use_classes(class_names or dataset.class_names)
    pixels = [np.asarray(dataset.read(i).resize((32, 32))).ravel() for i in range(len(dataset))]
    return np.array(pixels, np.float32), dataset.labels, dataset.class_names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", type=Path, default=Path("data/groceries"))
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    train, train_label, names = thumbnails(arguments.root, "train")
    val, val_label, _ = thumbnails(arguments.root, "val", names)
    test, test_label, _ = thumbnails(arguments.root, "test", names)
    known, known_label = np.concatenate([train, val]), np.concatenate([train_label, val_label])
    distance = (known**2).sum(1) - 2 * test @ known.T
    top1 = 100 * float((known_label[distance.argmin(1)] == test_label).mean())
    print(f"nearest neighbour: Top-1 {top1:.2f} % of {len(test)} from {len(known)} images")
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"top1": top1, "samples": len(test)}), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
