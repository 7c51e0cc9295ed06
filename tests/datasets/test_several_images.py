"""Batches of several images, and of other fields, on their way from a folder to the network."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import yaml
from paddle import nn
from PIL import Image

from passl.datasets import EvaluationBatches, Loader, SampleKey, StandIn, build_dataset
from passl.datasets.batch_cells import batch_cells
from passl.datasets.image_size import image_size
from passl.datasets.loading.first_look import learn_fields
from passl.datasets.loading.handover import Handover, bytes_of
from passl.datasets.registry import BATCH_TRANSFORMS
from passl.datasets.transforms.base import Transform, stated
from passl.engine import train
from passl.engine.checks import check_images
from passl.evaluation import crop_ratio
from passl.inspection import benchmarks
from passl.inspection.dry_run import dry_run
from passl.inspection.made_up import made_up_batch
from passl.modeling.architectures import ARCHITECTURES, Architecture
from passl.utils.config import get_config
from passl.utils.errors import PasslError

LARGE = [{"name": "RandomResizedCrop", "size": 16}, {"name": "RandomHorizontalFlip"}]
VIEWS = {"name": "Views", "views": [LARGE, [{"name": "RandomResizedCrop", "size": 8}]]}
NORMALIZE = {"name": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
SEEN = []


class AgreesOnViews(Architecture):
    """Learns to give both views of an image the same numbers; has no classes."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(3, 4)

    def forward(self, batch):
        one = self.project(batch["image"].mean([2, 3]))
        if not self.training:
            return {"features": one}
        SEEN.append({name: value.numpy() for name, value in batch.items()})
        return {"loss": (one - self.project(batch["image_1"].mean([2, 3]))).square().mean()}


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES._factories, "AgreesOnViews", AgreesOnViews)
    SEEN.clear()


@pytest.fixture
def photographs(tmp_path, save_image):
    for i in range(9):
        folder = ("照片", "照片/旅行", ".", "more/below")[i % 4]
        save_image(tmp_path / "photographs" / folder / f"{i}.png", (24, 20), i)
    return tmp_path / "photographs"


@pytest.fixture
def config(photographs, tmp_path):
    def make(**train):
        dataset = {"name": "ImageFolder", "dataroot": str(photographs), "labels": False,
                   "transforms": [VIEWS]}  # fmt: skip
        section = {
            "dataset": dataset,
            "batch_transforms": [NORMALIZE],
            "sampler": {"batch_size": 4},
            "loader": {"num_workers": 2},
            **train,
        }
        cfg = {
            "model": {"name": "AgreesOnViews"},
            "epochs": 1,
            "output_dir": str(tmp_path / "run"),
            "dataloader": {"train": section},
            "lr_scheduler": {"name": "Cosine", "learning_rate": 0.1},
            "optimizer": {"name": "SGD"},
        }
        (tmp_path / "views.yaml").write_text(yaml.safe_dump(cfg))
        return get_config(tmp_path / "views.yaml")

    return make


# ---------------------------------------------------------------- a run


def test_two_steps_without_labels(config, photographs, tmp_path):
    cfg = config()
    train(cfg)
    steps = [seen for seen in SEEN if len(seen["image"]) == 4]
    assert len(steps) == 2
    for seen in steps:
        assert list(seen) == ["image", "image_1"]
        assert seen["image"].shape == (4, 3, 16, 16) and seen["image_1"].shape == (4, 3, 8, 8)
    # Each image once, drawn as a set with labels and without Views draws it.
    plain = build_dataset({**cfg.dataloader.train.dataset, "transforms": LARGE})
    undone = np.concatenate([seen["image"] for seen in steps]).transpose(0, 2, 3, 1)
    undone = (undone * NORMALIZE["std"] + NORMALIZE["mean"]) * 255
    drawn = [plain[SampleKey(i, seed=cfg.seed)]["image"] for i in range(9)]
    found = [int(np.argmin([np.abs(d - image).max() for d in drawn])) for image in undone]
    assert len(set(found)) == 8
    for place, image in zip(found, undone):
        np.testing.assert_allclose(image, drawn[place], atol=1e-3)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert (tmp_path / "run" / "first_batch.png").exists()


def test_multi_crop_from_photographs_to_the_network(config, tmp_path):
    """Two large views and six small ones: every step gets all of them, and they are drawn."""
    small = [{"name": "RandomResizedCrop", "size": 8, "scale": [0.05, 0.14]}]
    views = [{"count": 2, "transforms": LARGE}, {"count": 6, "transforms": small}]
    cfg = config()
    cfg.dataloader.train.dataset["transforms"] = [{"name": "Views", "views": views}]
    train(cfg)
    steps = [seen for seen in SEEN if len(seen["image"]) == 4]
    assert len(steps) == 2
    for seen in steps:
        sides = [array.shape for array in seen.values()]
        assert list(seen) == ["image", *(f"image_{v}" for v in range(1, 8))]
        assert sides == [(4, 3, 16, 16)] * 2 + [(4, 3, 8, 8)] * 6
    with Image.open(tmp_path / "run" / "first_batch.png") as picture:
        assert picture.size == (8 * 168, 4 * 194 + 4), "a row for each image"


def test_views_and_repeats_exclude_one_another(config):
    cfg = config(sampler={"batch_size": 4, "repeats": 2})
    with pytest.raises(PasslError, match="sampler.repeats is 2, but Views already makes several"):
        train(cfg)


def test_a_field_that_is_missing_is_named(config, photographs):
    dataset = {"name": "ImageFolder", "dataroot": str(photographs), "transforms": LARGE}
    architecture = AgreesOnViews()
    architecture.forward = lambda batch: batch["image_1"]
    section = config().dataloader.train
    with pytest.raises(PasslError, match="needs the field image_1, but a batch has image, label"):
        check_images(architecture, build_dataset(dataset), section, "train", 0)


def test_every_view_is_to_be_normalized(config, monkeypatch):
    class Half:
        def __call__(self, batch, rng=None):
            return {**batch, "image": batch["image"].astype("float32").transpose([0, 3, 1, 2])}

    monkeypatch.setitem(BATCH_TRANSFORMS._factories, "Half", Half)
    section = config(batch_transforms=[{"name": "Half"}]).dataloader.train
    dataset = build_dataset(section.dataset)
    with pytest.raises(PasslError, match=r"no Normalize.*\[2, 8, 8, 3\] of uint8"):
        check_images(AgreesOnViews(), dataset, section, "train", 0)


# ---------------------------------------------------------------- a look at a run


def test_a_dry_run(config, tmp_path):
    cfg = config()
    table = dict(dry_run(cfg))
    assert "loss" in table["two steps"]
    for name in ("augmented.png", "schedule.png"):
        assert (tmp_path / "run" / "dry-run" / name).stat().st_size > 1000


def test_made_up_batches_have_the_fields_of_a_sample(config):
    cfg = config()
    dataset = build_dataset(cfg.dataloader.train.dataset)
    dataset.transforms.append(lambda sample, rng: {**sample, "ids": np.arange(5, dtype=np.int32)})
    batch = made_up_batch(cfg, dataset, AgreesOnViews(), 3)
    assert {name: value.shape for name, value in batch.items()} == {
        "image": [3, 3, 16, 16], "image_1": [3, 3, 8, 8], "ids": [3, 5],
    }  # fmt: skip
    assert batch["ids"].numpy().tolist() == [[0, 1, 2, 3, 4]] * 3
    # Uniform noise: its mean is that of 0 to 255.
    for name in ("image", "image_1"):
        pixels = batch[name].numpy().transpose(0, 2, 3, 1) * NORMALIZE["std"] + NORMALIZE["mean"]
        assert abs(pixels.mean() - 0.5) < 0.05 and len(np.unique(pixels.round(4))) > 200
        assert (batch[name][0] != batch[name][1]).any()
    dataset.labels, classes = np.zeros(9, np.int64), AgreesOnViews()
    classes.num_classes = 7
    labels = made_up_batch(cfg, dataset, classes, 200)["label"].numpy()
    assert sorted(set(labels.tolist())) == list(range(7))


@pytest.mark.parametrize("there", [True, False])
def test_the_speed_of_a_step(config, there):
    """Also where the images are not."""
    cfg = config()
    if not there:
        cfg.dataloader.train.dataset["dataroot"] += "/gone"
    result = benchmarks.model_steps(cfg, "cpu", 1, 1)
    assert result["batch_size"] == 4 and result["images_per_second"] > 0
    assert {name: value.shape for name, value in SEEN[-1].items()} == {
        "image": (4, 3, 16, 16), "image_1": (4, 3, 8, 8),
    }  # fmt: skip


def test_what_transforms_state(config):
    """Also where one that states nothing, or does not inherit, stands behind."""
    cfg = config()
    section = cfg.dataloader.train
    section.dataset["transforms"] = [VIEWS, {"name": "RandomHorizontalFlip"}]
    assert image_size(section) == (16, 16)
    crop = {"name": "ResizeCenterCrop", "size": 8, "crop_ratio": 0.9}
    dataset = build_dataset({**section.dataset, "transforms": [LARGE[1], crop, *LARGE]})
    dataset.transforms.append(lambda sample, rng: sample)
    assert crop_ratio(dataset) == 0.9
    assert stated(dataset.transforms[-1], Transform, "size") is None


def test_every_view_is_drawn(config, tmp_path):
    section = config().dataloader.train
    dataset = build_dataset(section.dataset)
    loader = Loader(dataset, EvaluationBatches(9, 3), section.batch_transforms)
    batch = next(iter(loader))
    cells = batch_cells(batch, loader)
    sample = dataset[1]
    assert [title for _, title in cells] == ["view 1, 16 × 16", "view 2, 8 × 8"] * 3
    np.testing.assert_array_equal(cells[2][0], sample["image"])
    np.testing.assert_array_equal(cells[3][0], sample["image_1"])
    assert len(batch_cells(batch, loader, most=4)) == 4


# ---------------------------------------------------------------- the loader


def with_fields(photographs):
    cfg = {"name": "ImageFolder", "dataroot": str(photographs), "labels": False,
           "transforms": [VIEWS]}  # fmt: skip
    dataset = build_dataset(cfg)

    def add(sample, rng):
        ids, weight = np.arange(7, dtype=np.int16), np.float64(rng.random())
        return {**sample, "ids": ids, "weight": weight}

    dataset.transforms.append(add)
    return dataset


FIELDS = [
    ("image", "|u1", (16, 16, 3)),
    ("image_1", "|u1", (8, 8, 3)),
    ("ids", "<i2", (7,)),
    ("weight", "<f8", ()),
]


def test_the_fields_of_a_sample_are_learnt(photographs):
    dataset = with_fields(photographs)
    assert learn_fields(dataset, [SampleKey(3)], 30) == FIELDS

    numbers = itertools.count()  # each process has its own

    def trouble(sample, rng):
        kind = next(numbers)
        if kind < 3:
            raise (PasslError("one"), ValueError("two"), SystemExit(3))[kind]
        return sample

    dataset.transforms.append(trouble)
    assert learn_fields(dataset, [SampleKey(0)] * 3, 30) is None
    assert learn_fields(dataset, [SampleKey(0)] * 4, 30) == FIELDS
    assert learn_fields(dataset, [], 30) is None


@pytest.mark.parametrize("how", ["dies", "hangs", "leaves"])
def test_a_first_look_that_comes_to_nothing(photographs, how):
    dataset, here = with_fields(photographs), os.getpid()

    def trouble(sample, rng):
        assert os.getpid() != here
        if how == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "leaves":
            os._exit(0)
        time.sleep(1000)

    dataset.transforms.append(trouble)
    started = time.monotonic()
    assert learn_fields(dataset, [SampleKey(0)], 0.5) is None
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("missing", [0, 1])
def test_slots_hold_exactly_a_batch(missing):
    fields = {"image": np.full((40, 41, 3), 7, np.uint8), "ids": np.arange(7, dtype=np.int16),
              "weight": np.float64(0.5), "image_1": np.full((9, 8, 3), 9, np.uint8)}  # fmt: skip
    size = sum(-(-6 * np.asarray(value).nbytes // 64) * 64 for value in fields.values())
    described = [(np.asarray(value).dtype, (6, *np.shape(value))) for value in fields.values()]
    assert bytes_of(described) == size
    handover = Handover(1, size)
    handover._slot_bytes = size - missing  # a slot is whole pages otherwise
    note = handover.put(0, [fields] * 6)
    if missing:
        assert note is None
        return
    batch = handover.take(note)
    assert list(batch) == list(fields)
    for name, value in fields.items():
        np.testing.assert_array_equal(batch[name], np.stack([value] * 6))
        assert batch[name].dtype == np.asarray(value).dtype


def test_the_slots_of_a_loader_are_as_large_as_its_batches(photographs, monkeypatch):
    made = []
    put, start = Handover.put, Handover.__init__

    def noting(self, workers, size):
        made.append((workers, size))
        start(self, workers, size)

    monkeypatch.setattr(Handover, "__init__", noting)
    monkeypatch.setattr(
        Handover, "put", lambda self, *given: put(self, *given) or pytest.fail("does not fit")
    )
    dataset = with_fields(photographs)
    expected = list(Loader(dataset, EvaluationBatches(9, 4)))
    loader = Loader(dataset, EvaluationBatches(9, 4), num_workers=2)
    for _ in range(2):  # the second time nothing is learnt anew
        for one, other in zip(expected, loader):
            assert list(one) == list(other) == [name for name, *_ in FIELDS]
            for name in one:
                np.testing.assert_array_equal(one[name].numpy(), other[name].numpy())
        monkeypatch.setattr("passl.datasets.loading.loader.learn_fields", pytest.fail)
    image, small, ids, weight = 4 * 16 * 16 * 3, 4 * 8 * 8 * 3, 64, 64
    assert made == [(2, image + small + ids + weight)] * 2


@pytest.mark.parametrize("batches", ["once", "unreadable", "none"])
def test_batches_whose_size_is_not_known(photographs, monkeypatch, batches):
    """They go through Paddle's queue."""
    made = []
    monkeypatch.setattr(Handover, "put", lambda *given: made.append(given))
    dataset = with_fields(photographs)
    keys = [[SampleKey(i)] for i in range(9)]
    if batches == "unreadable":
        for path in photographs.rglob("*.png"):
            if path.stem != "7":
                path.write_bytes(b"no image")
        with contextlib.suppress(PasslError):
            dataset = with_fields(photographs)
    last = next(i for i in range(9) if dataset.path(i).endswith("7.png"))
    keys.append([SampleKey(last)])

    class Once:
        def __init__(self):
            self.left = iter(keys)

        def __len__(self):
            return len(keys)

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.left)

    given = {"once": Once(), "unreadable": keys, "none": []}[batches]
    loader = Loader(dataset, given, num_workers=2, max_unreadable=9)
    found = list(loader)
    assert len(found) == {"once": 10, "unreadable": 1 + 1, "none": 0}[batches] and not made


def test_a_stand_in_has_every_field(photographs):
    paths = sorted(photographs.rglob("*.png"))
    paths[1].write_bytes(b"no image")
    dataset = with_fields(photographs)
    damaged = next(i for i in range(9) if dataset.path(i) == str(paths[1]))
    keys = [[SampleKey(0)], [SampleKey(damaged)]]
    loader = Loader(dataset, keys, [NORMALIZE], num_workers=2, max_unreadable=2, stand_ins=True)
    real, stand_in = list(loader)
    assert isinstance(stand_in, StandIn) and list(stand_in) == list(real)
    for name in real:
        assert stand_in[name].shape == real[name].shape and stand_in[name].dtype == real[name].dtype
    black = -np.array(NORMALIZE["mean"]) / NORMALIZE["std"]
    np.testing.assert_allclose(stand_in["image_1"].numpy()[0, :, 3, 3], black, rtol=1e-5)


def test_a_look_that_hangs_ends_with_the_process_that_was_killed(tmp_path):
    """Killed as the system kills what takes too much memory: nobody can clean up."""
    note = tmp_path / "pid"

    class Hanging(dict):
        def __getitem__(self, key):
            aside = note.with_suffix(".part")
            aside.write_text(str(os.getpid()), encoding="utf-8")
            aside.rename(note)
            time.sleep(60)

    context = multiprocessing.get_context("fork")
    main = context.Process(target=learn_fields, args=(Hanging(), [SampleKey(0)], 60))
    main.start()
    deadline = time.monotonic() + 30
    while not note.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    look = int(note.read_text(encoding="utf-8"))
    main.kill()
    main.join()
    while is_running(look):
        assert time.monotonic() < deadline, "it has stayed behind"
        time.sleep(0.05)


def is_running(pid):
    """A process that has ended may wait to be reaped by whoever adopted it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
