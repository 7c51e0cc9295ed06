"""Writes what timm makes of the images of a folder when it evaluates one of its Mixers.

The view is the one that timm's own record of the release asks for. OUT.npz gets, for every file,
``pixels/<name>``, uint8 ``[H, W, 3]``, and ``normalized/<name>``, float32 ``[3, H, W]``; and what
the record says.

    python tests/reference/timm_pixels.py FOLDER OUT.npz mixer_b16_224.goog_in21k_ft_in1k
"""

import argparse

import numpy as np
import timm
from timm.data import create_dataset, create_transform, resolve_data_config


def view_of(release):
    """Returns the arguments of create_transform for a release, by timm's own record."""
    record = timm.get_pretrained_cfg(release).to_dict()
    config = resolve_data_config({}, pretrained_cfg=record)
    return {
        "input_size": config["input_size"],
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
        "mean": config["mean"],
        "std": config["std"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("release")
    arguments = parser.parse_args()
    view = view_of(arguments.release)
    dataset = create_dataset("", arguments.folder)
    arrays = {name: np.array(value) for name, value in view.items()}
    for kind, normalize in (("pixels", False), ("normalized", True)):
        dataset.transform = create_transform(is_training=False, normalize=normalize, **view)
        for index, name in enumerate(dataset.filenames(basename=True)):
            array = dataset[index][0].numpy()
            arrays[f"{kind}/{name}"] = array if normalize else array.transpose(1, 2, 0)
    np.savez(arguments.out, **arrays)
