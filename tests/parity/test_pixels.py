"""The pixels that a network is evaluated on: those of timm, to the last bit."""

import json

import numpy as np
import paddle
import pytest
from helpers import ROOT
from PIL import Image
from reference.pictures import SIZES, digest, picture

from passl.datasets import BATCH_TRANSFORMS, build_dataset
from passl.utils.config import get_config

# Shipped config; timm's name of the release; what timm's record of it says.
VIEWS = [
    (
        "mlp-mixer_b16_224",
        "mixer_b16_224.goog_in21k_ft_in1k",
        {"interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
    ),
    (
        "mlp-mixer_b16_224_miil",
        "mixer_b16_224.miil_in21k_ft_in1k",
        {"interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3},
    ),
]


def evaluation_pixels(section, paths, list_file):
    """Returns {file name: uint8 [H, W, 3]} as the evaluation with a config sees the files."""
    paths = sorted(paths)
    list_file.write_text("".join(f"{path.name} 0\n" for path in paths))
    dataset = build_dataset(
        {
            "name": "ImageList",
            "dataroot": str(paths[0].parent),
            "list_file": str(list_file),
            "transforms": section.dataset.transforms,
        }
    )
    return {path.name: dataset[i]["image"] for i, path in enumerate(paths)}


# ---------------------------------------------------------------- what timm gave: golden hashes

# The pictures are made here, so that no decoder has a part in them, and Pillow resizes bytes with
# integers: their hashes are the same on every machine. The decoding of JPEG may not be, because
# libraries are free in how they enlarge the colours. A photograph that Pillow by itself decodes
# otherwise here than it did there says nothing about this project, and is passed over. (Pillow 9.1
# and 13.0 give the same for pictures and photographs.)


@pytest.fixture(scope="session")
def golden():
    return json.loads((ROOT / "tests" / "golden" / "pixels.json").read_text())


@pytest.mark.smoke
@pytest.mark.parametrize("config, release, record", VIEWS, ids=["goog", "miil"])
def test_pictures_of_all_shapes_look_as_timm_showed_them(golden, tmp_path, config, release, record):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for width, height in SIZES:
        pixels = picture(width, height)
        assert digest(pixels) == golden["pictures"][f"{width}x{height}"]
        Image.fromarray(pixels).save(folder / f"{width}x{height}.png")
    section = get_config(config).dataloader.val
    ours = evaluation_pixels(section, folder.iterdir(), tmp_path / "list.txt")
    assert len(ours) == len(SIZES) == 14
    for name, pixels in ours.items():
        assert digest(pixels) == golden["view"][release][name[: -len(".png")]], name


@pytest.mark.parametrize("config, release, record", VIEWS, ids=["goog", "miil"])
def test_photographs_look_as_timm_showed_them(
    golden, photographs, tmp_path, config, release, record
):
    section = get_config(config).dataloader.val
    ours = evaluation_pixels(section, photographs, tmp_path / "list.txt")
    otherwise = []
    for path in photographs:
        with Image.open(path) as image:
            decoded = digest(np.asarray(image.convert("RGB")))
        if decoded != golden["decoded"][path.name]:
            otherwise.append(path.name)
        else:
            assert digest(ours[path.name]) == golden["view"][release][path.name], path.name
    if otherwise:
        pytest.skip(f"Pillow's JPEG decoder gives other pixels here: {', '.join(otherwise)}")


# ---------------------------------------------------------------- timm itself


@pytest.fixture(scope="session")
def many_kinds(photographs, tmp_path_factory):
    """The photographs, and out of them images of all shapes and kinds of pixel."""
    folder = tmp_path_factory.mktemp("kinds")
    for path in photographs:
        (folder / path.name).write_bytes(path.read_bytes())
    for (width, height), path in zip(SIZES, photographs):
        with Image.open(path) as image:
            image.resize((width, height), Image.Resampling.BICUBIC).save(
                folder / f"{width}x{height}.png"
            )
    turned = Image.Exif()
    turned[0x0112] = 6  # on its side; ImageNet's figures are without turning it
    with Image.open(photographs[10]) as image:
        image.convert("L").save(folder / "grey.jpg", quality=90)
        image.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
        image.save(folder / "turned.jpg", quality=90, exif=turned)
        image.save(folder / "full_colours.jpg", quality=90, subsampling=0)
        image.save(folder / "progressive.jpg", quality=90, progressive=True)
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
        image.putalpha(image.convert("L"))
        image.save(folder / "alpha.png")
        image.convert("LA").save(folder / "grey_alpha.png")
        image.convert("1").save(folder / "bits.png")
    return folder


# Seen with timm 1.0.31 and Pillow 13.0.0 on both sides: not a byte of 43 images differs; after
# normalisation they differ by 1.2e-7 (mean and std 0.5) and 6.0e-8 (0 and 1).
@pytest.mark.reference
@pytest.mark.parametrize("config, release, record", VIEWS, ids=["goog", "miil"])
def test_pixels_are_timms(reference, many_kinds, tmp_path, config, release, record):
    reference("timm_pixels.py", many_kinds, tmp_path / "theirs.npz", release)
    section = get_config(config).dataloader.val
    ours = evaluation_pixels(section, many_kinds.iterdir(), tmp_path / "list.txt")
    (normalize,) = [BATCH_TRANSFORMS.build(cfg) for cfg in section.batch_transforms]
    with np.load(tmp_path / "theirs.npz") as theirs:
        assert (theirs["crop_pct"], str(theirs["interpolation"])) == (
            0.875, record["interpolation"],
        )  # fmt: skip
        assert [theirs["mean"].tolist(), theirs["std"].tolist()] == [record["mean"], record["std"]]
        assert {f"pixels/{name}" for name in ours} == {n for n in theirs if n.startswith("pixels/")}
        assert len(ours) == 20 + len(SIZES) + 9
        furthest = 0.0
        for name, pixels in ours.items():
            assert pixels.dtype == np.uint8 and pixels.shape == (224, 224, 3)
            np.testing.assert_array_equal(pixels, theirs[f"pixels/{name}"], err_msg=name)
            batch = normalize({"image": paddle.to_tensor(pixels[None])})
            distance = np.abs(batch["image"].numpy()[0] - theirs[f"normalized/{name}"]).max()
            furthest = max(furthest, float(distance))
        print(f"{config}: {len(ours)} images equal; normalised, they differ by {furthest:.1e}")
        # Values in [-1, 1]; either side's roundings add up to less than two steps of a float at 1.
        assert furthest <= 4 * np.finfo(np.float32).eps
