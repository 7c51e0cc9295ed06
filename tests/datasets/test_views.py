"""Several views of one image, and batches of several images."""

import numpy as np
import paddle
import pytest

from passl.datasets import Loader, SampleKey, build_dataset
from passl.datasets.dataset import image_fields, is_image
from passl.datasets.registry import BATCH_TRANSFORMS, TRANSFORMS
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.utils.seeding import derived_rng, sample_rng

AUGMENT = [
    {"name": "RandomResizedCrop", "size": 8},
    {"name": "RandomHorizontalFlip"},
    {"name": "ColorJitter", "brightness": 0.4},
]


@pytest.fixture
def folder(image_folder):
    return str(image_folder({"a": 3, "b": 2}, size=(24, 20)))


def images(folder, *transforms):
    return build_dataset({"name": "ImageFolder", "dataroot": folder, "transforms": transforms})


def test_names_of_images():
    names = ["image", "label", "image_1", "images", "image_0", "image_01", "my_image", "image_12"]
    assert image_fields(names) == ["image", "image_1", "image_12"]
    assert not is_image("image_\n1") and not is_image("image_1\n")


def test_first_view_is_the_sample_without_views(folder):
    small = [{"name": "RandomCrop", "size": 4}]
    plain = images(folder, *AUGMENT)
    views = images(folder, {"name": "Views", "views": [AUGMENT, small, AUGMENT]})
    for index in range(5):
        key = SampleKey(index, epoch=2, seed=7)
        sample = views[key]
        assert list(sample) == ["image", "label", "image_1", "image_2"]
        np.testing.assert_array_equal(sample["image"], plain[key]["image"])
        assert sample["image_1"].shape == (4, 4, 3) and sample["image_1"].dtype == np.uint8
        assert (sample["image_2"] != sample["image"]).any()


@pytest.mark.smoke
def test_multi_crop(folder):
    """Two large views and six small ones, each with draws of its own, as if they were listed."""
    small = [{"name": "RandomResizedCrop", "size": 4, "scale": [0.05, 0.14]}]
    short = [{"count": 2, "transforms": AUGMENT}, {"count": 6, "transforms": small}]
    found, listed = (
        images(folder, {"name": "Views", "views": views})
        for views in (short, [AUGMENT] * 2 + [small] * 6)
    )
    names = ["image", *(f"image_{v}" for v in range(1, 8))]
    for index in range(3):
        sample = found[index]
        assert image_fields(sample) == names
        assert [sample[name].shape for name in names] == [(8, 8, 3)] * 2 + [(4, 4, 3)] * 6
        for name in names:
            np.testing.assert_array_equal(sample[name], listed[index][name])
        # Views and their draws all differ.
        assert len({sample[name].tobytes() for name in names}) == 8
    assert found.transforms[0].size == (8, 8)


def test_where_a_wrong_entry_stands(tmp_path):
    (tmp_path / "views.yaml").write_text(
        """\
epochs: 1
model: {name: SimCLR}
optimizer: {name: SGD}
lr_scheduler: {name: Constant, learning_rate: 0.1}
dataloader:
  train:
    sampler: {batch_size: 2}
    dataset:
      name: Synthetic
      transforms:
        - name: Views
          views:
            - []
            - {count: six, transforms: []}
"""
    )
    cfg = get_config(tmp_path / "views.yaml")
    with pytest.raises(PasslError, match=r"views.yaml:14: an entry of views"):
        TRANSFORMS.build(cfg.dataloader.train.dataset.transforms[0])


def test_draws_after_views_stay_what_they_are(folder):
    class Draws:
        def __call__(self, sample, rng):
            return {**sample, "drawn": rng.random(3)}

    plain = images(folder, *AUGMENT)
    views = images(folder, {"name": "Views", "count": 3, "transforms": AUGMENT})
    for dataset in (plain, views):
        dataset.transforms.append(Draws())
    np.testing.assert_array_equal(plain[3]["drawn"], views[3]["drawn"])


def test_a_view_does_not_depend_on_other_views(folder):
    few = [{"name": "RandomHorizontalFlip"}]
    one = images(folder, {"name": "Views", "views": [AUGMENT, AUGMENT, AUGMENT]})
    other = images(folder, {"name": "Views", "views": [few, few, AUGMENT]})
    for index in range(5):
        np.testing.assert_array_equal(one[index]["image_2"], other[index]["image_2"])
        views = [one[index][name] for name in ("image", "image_1", "image_2")]
        assert (views[0] != views[1]).any() and (views[1] != views[2]).any()


def test_a_transform_that_changes_what_it_is_given(folder):
    def inverted(sample, rng):
        sample["image"] = 255 - np.asarray(sample["image"])
        return sample

    dataset = images(folder, {"name": "Views", "views": [[], [], []]})
    dataset.transforms[0].views = [[inverted], [inverted], []]
    sample, raw = dataset[0], np.asarray(dataset.read(0))
    for name, expected in (("image", 255 - raw), ("image_1", 255 - raw), ("image_2", raw)):
        np.testing.assert_array_equal(sample[name], expected)


def test_derived_generators():
    rng = sample_rng(1, 2, 3)
    first = derived_rng(rng, 1).random(4)
    rng.random(100)
    np.testing.assert_array_equal(derived_rng(rng, 1).random(4), first)
    seed = np.random.SeedSequence((0, 1, 2, 3, 0), spawn_key=(1,))
    np.testing.assert_array_equal(np.random.default_rng(seed).random(4), first)
    # One of a derived one is another one again.
    assert (derived_rng(derived_rng(rng, 1), 1).random(4) != first).all()
    assert (derived_rng(rng, 2).random(4) != first).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "either 'views'"),
        ({"count": 2}, "either 'views'"),
        ({"transforms": AUGMENT}, "either 'views'"),
        ({"views": [AUGMENT], "count": 2}, "either 'views'"),
        ({"views": [AUGMENT]}, "views lists at least 2 views, not 1"),
        ({"count": 1, "transforms": AUGMENT}, "count is at least 2 views, not 1"),
        ({"views": [AUGMENT, [{"name": "Nope"}]]}, "unknown transform 'Nope'"),
        ({"views": [{"count": 1, "transforms": AUGMENT}]}, "views lists at least 2 views, not 1"),
        ({"views": AUGMENT}, "an entry of views is a list, .* not {'name': 'RandomResizedCrop'"),
        ({"views": [AUGMENT, {"transforms": AUGMENT}]}, "an entry of views is a list"),
        ({"views": [AUGMENT, {"count": 2}]}, "an entry of views is a list"),
        ({"views": [AUGMENT, {"count": 0, "transforms": AUGMENT}]}, "an entry of views is a list"),
        ({"views": [AUGMENT, {"count": True, "transforms": []}]}, "an entry of views is a list"),
        ({"views": [{"counts": 2, "count": 2, "transforms": []}]}, "an entry of views is a list"),
        ({"views": "both"}, "'views' of transform 'Views' must be"),
    ],
)
def test_what_is_no_views(arguments, message):
    with pytest.raises(PasslError, match=message):
        TRANSFORMS.build({"name": "Views", **arguments})


def test_views_of_views(folder):
    views = {"name": "Views", "count": 2, "transforms": AUGMENT}
    for transforms in ([views, views], [{"name": "Views", "count": 2, "transforms": [views]}]):
        with pytest.raises(PasslError, match="stands once among the transforms"):
            images(folder, *transforms)[0]


def test_every_image_is_normalized():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 4, 5, 3), np.uint8),
        "label": np.array([1, 0]),
        "image_1": rng.integers(0, 256, (2, 3, 3, 3), np.uint8),
        "box": rng.random((2, 4)).astype(np.float32),
    }
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    normalize = BATCH_TRANSFORMS.build({"name": "Normalize", "mean": mean, "std": std})
    result = normalize({name: paddle.to_tensor(array) for name, array in batch.items()})
    assert list(result) == list(batch)
    for name in ("image", "image_1"):
        expected = ((batch[name] / 255 - mean) / std).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(result[name].numpy(), expected, atol=1e-5)
    for name in ("label", "box"):
        np.testing.assert_array_equal(result[name].numpy(), batch[name])


@pytest.mark.parametrize("lacking", ["label", None])
def test_mixup_needs_one_image_and_a_label(lacking):
    batch = {name: paddle.rand([2, 3, 4, 4]) for name in ("image", "image_1")}
    batch["label"] = paddle.to_tensor([0, 1])
    if lacking:
        del batch[lacking], batch["image_1"]
    mixup = BATCH_TRANSFORMS.build({"name": "Mixup"})
    with pytest.raises(PasslError, match="mixes one image a sample and its label, but"):
        mixup(batch, np.random.default_rng(0))


def test_views_are_the_same_with_and_without_workers(folder):
    dataset = images(
        folder, {"name": "Views", "views": [AUGMENT, [{"name": "RandomCrop", "size": 6}]]}
    )
    keys = [[SampleKey(i, seed=3) for i in group] for group in ((4, 0), (1, 2), (3,))]
    batches = [list(Loader(dataset, keys, num_workers=count)) for count in (0, 2)]
    for one, other in zip(*batches):
        assert list(one) == list(other) == ["image", "label", "image_1"]
        for name in one:
            np.testing.assert_array_equal(one[name].numpy(), other[name].numpy())
