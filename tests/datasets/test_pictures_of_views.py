"""Pictures and tables of views: whose are beside whose, in whatever number and size."""

import numpy as np
import pytest
from PIL import Image

from passl.datasets import EvaluationBatches, Loader, SampleKey, build_dataset
from passl.datasets.batch_cells import batch_cells, view_titles
from passl.hooks.board import hyper_parameters
from passl.inspection import pictures
from passl.inspection.dry_run import _transforms, dry_run
from passl.utils.config import get_config
from passl.utils.contact_sheet import in_rows

LARGE = [{"name": "RandomResizedCrop", "size": 16}, {"name": "RandomHorizontalFlip"}]
SMALL = [{"name": "RandomResizedCrop", "size": 8, "scale": [0.05, 0.14]}]
VIEWS = {
    1: [],
    2: [{"name": "Views", "count": 2, "transforms": LARGE}],
    3: [{"name": "Views", "views": [LARGE, [], SMALL]}],
    8: [{"name": "Views", "views": [{"count": 2, "transforms": LARGE},
                                    {"count": 6, "transforms": SMALL}]}],
}  # fmt: skip
TITLES = {
    1: [""],
    2: ["view 1", "view 2"],
    3: ["view 1, 16 × 16", "view 2, 24 × 20", "view 3, 8 × 8"],
    8: [f"view {v}, {side} × {side}" for v, side in enumerate([16] * 2 + [8] * 6, 1)],
}
CONFIG = """
epochs: 1
seed: 3
model:
  name: MoCo
  architecture: {{name: ResNet, blocks: [1, 1], bottleneck: false, width: 4}}
  projector: {{hidden: 12, out: 6}}
  K: 32
  T: 0.25
  probe: {{num_classes: 2}}
optimizer:
  name: LARS
  weight_decay: 0.25
  groups: [{{parameters: "probe.*", lr: 0.125}}, {{parameters: "projector.*", adapt: false}}]
lr_scheduler: {{name: Cosine, learning_rate: 0.1}}
dataloader:
  train:
    dataset:
      name: ImageFolder
      dataroot: {folder}
      transforms:
        - name: Views
          views:
            - [{{name: RandomResizedCrop, size: 16, scale: [0.5, 1.0]}}, {{name: RandomGrayscale}}]
            - [{{name: RandomResizedCrop, size: 8}}]
        - {{name: RandomHorizontalFlip}}
    batch_transforms: [{{name: Normalize, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}}]
    sampler: {{batch_size: 2}}
"""


@pytest.fixture
def folder(image_folder):
    return str(image_folder({"apples": 5, "pears": 4}, size=(24, 20)))


@pytest.fixture
def config(folder, tmp_path):
    (tmp_path / "views.yaml").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    return get_config(tmp_path / "views.yaml", [f"output_dir={tmp_path / 'run'}"])


@pytest.mark.smoke
@pytest.mark.parametrize("views", VIEWS)
def test_names_of_views(views, folder):
    dataset = build_dataset({"name": "ImageFolder", "dataroot": folder, "transforms": VIEWS[views]})
    images = [value for name, value in dataset[0].items() if name != "label"]
    assert view_titles(images) == TITLES[views]


def test_what_belongs_together_stays_in_one_row():
    cells = [(np.zeros((1, 1, 3), np.uint8), str(i)) for i in range(24)]
    for together, columns in ((1, 6), (2, 6), (3, 6), (4, 4), (5, 5), (6, 6), (8, 8)):
        rows = in_rows(cells, together)
        assert {len(row) for row in rows[:-1]} == {columns}, together
        assert [cell for row in rows for cell in row] == cells


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("views", VIEWS)
def test_a_batch_beside_its_other_views(views, labels, folder):
    """The picture of the first batch: all views of an image, then those of the next one."""
    dataset = build_dataset(
        {"name": "ImageFolder", "dataroot": folder, "transforms": VIEWS[views], "labels": labels}
    )
    batch = next(iter(Loader(dataset, EvaluationBatches(9, 6))))
    images = [name for name in batch if name != "label"]
    scaled = {n: batch[n].astype("float32").transpose([0, 3, 1, 2]) / 255 for n in images}
    batch = {**batch, **scaled}
    loader = Loader(dataset, EvaluationBatches(9, 6))
    cells = batch_cells(batch, loader)
    assert len(cells) == 6 * views
    for i in range(6):
        sample = dataset[i]
        for v, name in enumerate(images):
            pixels, title = cells[i * views + v]
            np.testing.assert_array_equal(pixels, sample[name])
            label = dataset.class_names[sample["label"]] if labels and v == 0 else ""
            both = [label] * (labels and v == 0) or [""] * (labels and views > 1)
            assert title == "\n".join([*both, *[TITLES[views][v]] * (views > 1)])
    # At most so many, and never a part of an image's.
    for most, count in ((8, 8 // views), (3, max(1, 3 // views)), (1, 1)):
        few = batch_cells(batch, loader, most)
        assert [title for _, title in few] == [title for _, title in cells[: count * views]]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("views, epochs", [(1, 6), (2, 3), (3, 2), (8, 1)])
def test_the_views_of_training_are_drawn(views, epochs, labels, config, monkeypatch):
    seen, sheet = [], pictures.contact_sheet
    monkeypatch.setattr(pictures, "contact_sheet", lambda rows: seen.append(rows) or sheet(rows))
    section = config.dataloader.train.dataset
    section["transforms"], section["labels"] = VIEWS[views], labels
    dataset = build_dataset(section)
    path = pictures.Path(config.output_dir).parent / "augmented.png"
    pictures.draw_augmented(path, config, dataset)
    (rows,) = seen
    assert len(rows) == 6 and {len(row) for row in rows} == {1 + epochs * views}
    for row in rows:
        index = next(i for i in range(9) if (np.asarray(dataset.read(i)) == row[0][0]).all())
        label = dataset.class_names[dataset.labels[index]] if labels else "as it is"
        assert row[0][1] == label
        cells = iter(row[1:])
        for epoch in range(epochs):
            sample = dataset[SampleKey(index, epoch, 0, 3)]
            names = ["image", *(f"image_{v}" for v in range(1, views))]
            for name, title in zip(names, TITLES[views]):
                pixels, found = next(cells)
                np.testing.assert_array_equal(pixels, sample[name])
                assert found == f"epoch {epoch + 1}" + (f"\n{title}" if title else "")
    with Image.open(path) as image:
        assert image.width == 168 * (1 + epochs * views)


def test_the_table_lists_views_parts_and_rates(config):
    rows = dict(dry_run(config))
    assert rows["augmentation"].splitlines() == [
        "view 1:", "  RandomResizedCrop(size=16, scale=[0.5, 1])", "  RandomGrayscale()",
        "view 2:", "  RandomResizedCrop(size=8)",
        "RandomHorizontalFlip()",
    ]  # fmt: skip
    found = [rows[name] for name in ("method", "projector", "K", "T", "probe")]
    assert found == ["MoCo", "hidden=12, out=6", "32", "0.25", "num_classes=2"]
    assert rows["network"] == "ResNet(blocks=[1, 1], bottleneck=False, width=4)"
    assert rows["optimizer"] == (
        "LARS(weight_decay=0.25, groups=[{parameters=probe.*, lr=0.125}, {parameters=projector.*, "
        "adapt=False}])"
    )
    groups = [line for line in rows["groups"].splitlines() if not line.startswith("  ")]
    assert [line.partition(":")[0] for line in groups] == [
        "decay 0.25", "no decay",
        "decay 0.25, not adapted", "no decay, not adapted",
        "decay 0.25, rate 0.125 throughout", "no decay, rate 0.125 throughout",
    ]  # fmt: skip
    config.dataloader.train.dataset["transforms"] = VIEWS[2]
    assert dict(dry_run(config))["augmentation"].splitlines()[0] == "each of 2 views:"


def test_the_table_lists_views_of_several_sizes():
    assert _transforms([*VIEWS[8], {"name": "Turn"}]) == [
        "views 1 to 2:", "  RandomResizedCrop(size=16)", "  RandomHorizontalFlip()",
        "views 3 to 8:", "  RandomResizedCrop(size=8, scale=[0.05, 0.14])",
        "Turn()",
    ]  # fmt: skip
    assert _transforms(VIEWS[3])[3:5] == ["view 2:", "view 3:"]


def test_the_board_compares_what_a_method_consists_of(config):
    found = hyper_parameters(config)
    expected = {"model name": "MoCo", "model K": 32, "model T": 0.25, "projector hidden": 12,
                "probe num_classes": 2, "backbone width": 4}  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["transforms"] == "Views, RandomHorizontalFlip, Normalize"
