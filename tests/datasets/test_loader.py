import errno
import gc
import logging
import mmap
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import paddle
import pytest
from helpers import children_of
from paddle.io.dataloader import dataloader_iter
from PIL import Image

from passl.datasets import (
    EvaluationBatches,
    Loader,
    SampleKey,
    StandIn,
    TrainingBatches,
    UnreadableImage,
    build_dataset,
    dead_worker,
)
from passl.datasets.loading import loader as loader_module
from passl.datasets.loading import watch as watch_module
from passl.datasets.loading.handover import Handover
from passl.datasets.transforms.flips import RandomHorizontalFlip
from passl.utils.errors import PasslError
from passl.utils.logging import logger

TRAINING = [
    {"name": "RandomResizedCrop", "size": 8},
    {"name": "RandomHorizontalFlip"},
]
NORMALIZE = [{"name": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}]
WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


def folder(root, transforms=()):
    cfg = {"name": "ImageFolder", "dataroot": str(root), "transforms": list(transforms)}
    return build_dataset(cfg)


@pytest.fixture
def quick_look(monkeypatch):
    """Paddle looks every 5 seconds whether a worker has died."""
    monkeypatch.setattr(dataloader_iter, "MP_STATUS_CHECK_INTERVAL", 0.5)


def error_of_reading(root, num_workers, transforms=(), own=(), **arguments):
    """Returns the error of reading a folder as one batch; ``own`` are transforms of a user's own.

    Without workers, reading is an ordinary loop; with them, the watch ends one that never comes.
    """
    data = folder(root, transforms)
    data.transforms.extend(own)
    batches = EvaluationBatches(len(data), len(data))
    with pytest.raises(PasslError) as caught:
        list(Loader(data, batches, num_workers=num_workers, timeout=8, **arguments))
    assert "loader.timeout" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def warnings(caplog):
    """The package's warnings; its logger may not propagate after a command has run."""
    logger.addHandler(caplog.handler)
    try:
        yield lambda: [
            record.getMessage()
            for record in dict.fromkeys(caplog.records)
            if record.levelno == logging.WARNING
        ]
    finally:
        logger.removeHandler(caplog.handler)


def as_arrays(loader):
    return [{name: value.numpy() for name, value in batch.items()} for batch in loader]


# ---------------------------------------------------------------- TrainingBatches


def stream(length=23, global_batch=6, micro_batch=3, seed=5, start=0, end=9):
    return TrainingBatches(length, global_batch, micro_batch, seed, start, end)


@pytest.mark.smoke
def test_every_epoch_is_a_permutation_without_repeats():
    batches = stream()
    assert batches.steps_per_epoch == 3 and len(batches) == len(list(batches)) == 18
    keys = [key for batch in batches for key in batch]
    orders = []
    for epoch in range(3):
        own = [key for key in keys if key.epoch == epoch]
        indices = [key.index for key in own]
        assert len(indices) == len(set(indices)) == 18  # 23 images make three steps of six
        assert set(indices) <= set(range(23))
        assert own == keys[18 * epoch : 18 * (epoch + 1)]
        orders.append(indices)
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])
    # Other images are left out each time.
    assert len({frozenset(order) for order in orders}) > 1
    assert {key.seed for key in keys} == {5} and {key.copy for key in keys} == {0}


def test_an_epoch_that_fits_shows_every_image():
    keys = [key for batch in stream(length=24, end=4) for key in batch]
    assert sorted(key.index for key in keys) == list(range(24))


def test_the_order_is_a_function_of_the_seed():
    np.random.seed(0)
    first = list(stream())
    np.random.seed(1)
    assert list(stream()) == first == list(stream())

    def indices(batches):
        return [key.index for batch in batches for key in batch]

    assert indices(stream(seed=6)) != indices(first)


@pytest.mark.smoke
@pytest.mark.parametrize("start", range(10))
def test_a_later_start_gives_exactly_the_tail(start):
    whole, tail = list(stream()), stream(start=start)
    assert list(tail) == whole[2 * start :]
    assert len(tail) == len(whole) - 2 * start


def test_micro_batches_cut_the_global_batch_and_change_no_order():
    def flat(micro_batch):
        return [key for batch in stream(micro_batch=micro_batch) for key in batch]

    assert flat(1) == flat(2) == flat(3) == flat(6)
    assert [len(batch) for batch in stream(micro_batch=2)] == [2] * 27


# ---------------------------------------------------------------- EvaluationBatches


@pytest.mark.smoke
@pytest.mark.parametrize("length, batch_size", [(10, 4), (8, 4), (3, 4), (1, 1), (4, 1)])
def test_evaluation_counts_each_sample_once(length, batch_size):
    batches = EvaluationBatches(length, batch_size)
    lists = list(batches)
    assert [key.index for batch in lists for key in batch] == list(range(length))
    assert len(lists) == len(batches)
    assert all(len(batch) == batch_size for batch in lists[:-1])
    assert 1 <= len(lists[-1]) <= batch_size


@WORKERS
def test_the_last_short_batch_arrives(image_folder, num_workers):
    dataset = folder(image_folder({"a": 3, "b": 4}))
    loader = Loader(dataset, EvaluationBatches(7, 3), num_workers=num_workers)
    batches = as_arrays(loader)
    assert len(loader) == 3
    assert [len(batch["label"]) for batch in batches] == [3, 3, 1]
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [0] * 3 + [1] * 4
    images = np.concatenate([batch["image"] for batch in batches])
    expected = [np.asarray(Image.open(dataset.where(i))) for i in range(7)]
    np.testing.assert_array_equal(images, expected)
    assert images.dtype == np.uint8 and batches[0]["label"].dtype == np.int64


# ---------------------------------------------------------------- workers


@pytest.mark.smoke
def test_workers_give_memory_back(image_folder, monkeypatch):
    """Of the largest of a million images each of them would hold what it took for good."""
    told = mmap.mmap(-1, 2)

    def note():
        told[int(multiprocessing.current_process().name != "MainProcess")] = 1

    monkeypatch.setattr(watch_module, "give_freed_memory_back", note)
    dataset = folder(image_folder({"a": 3}))
    list(Loader(dataset, EvaluationBatches(3, 3), num_workers=1))
    assert told[:] == b"\0\1"


def test_batches_do_not_depend_on_the_workers(image_folder):
    root = image_folder({"a": 6, "b": 5, "c": 4}, size=(30, 20))

    def batches(num_workers, **arguments):
        order = TrainingBatches(15, 4, 4, seed=3, start_step=0, end_step=6)
        loader = Loader(
            folder(root, TRAINING), order, NORMALIZE, num_workers=num_workers, **arguments
        )
        return as_arrays(loader)

    alone = batches(0)
    assert len(alone) == 6 and alone[0]["image"].shape == (4, 3, 8, 8)
    for other in (batches(2), batches(1, use_shared_memory=False)):
        assert len(other) == 6
        for first, second in zip(alone, other):
            assert set(first) == set(second) == {"image", "label"}
            for field in first:
                np.testing.assert_array_equal(first[field], second[field])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_together_see_the_stream_of_one(size, repeats):
    """Each micro-batch is cut into equal parts, in order."""
    whole = list(TrainingBatches(100, 24, 12, 5, 2, 11, repeats))
    parts = [
        list(TrainingBatches(100, 24, 12, 5, 2, 11, repeats, rank, size)) for rank in range(size)
    ]
    assert len(whole) == 9 * 2
    assert [sum(shares, []) for shares in zip(*parts)] == whole
    assert {len(share) for part in parts for share in part} == {12 // size}


@pytest.mark.parametrize("length, size", [(13, 1), (13, 2), (13, 4), (3, 4), (1, 5)])
def test_processes_share_out_an_evaluation_without_overlap(length, size):
    parts = [list(EvaluationBatches(length, 5, rank, size)) for rank in range(size)]
    assert [len(part) for part in parts] == [len(EvaluationBatches(length, 5, rank, size))
                                             for rank in range(size)]  # fmt: skip
    seen = [key.index for part in parts for batch in part for key in batch]
    assert sorted(seen) == list(range(length))


@WORKERS
def test_a_process_without_anything_to_evaluate(image_folder, num_workers):
    data = folder(image_folder({"a": 3}), [{"name": "ResizeCenterCrop", "size": 8}])
    batches = EvaluationBatches(len(data), len(data), 1, 2)
    assert list(Loader(data, batches, num_workers=num_workers)) == []


def test_a_loader_can_be_iterated_again(image_folder):
    loader = Loader(folder(image_folder({"a": 3, "b": 2})), EvaluationBatches(5, 2))
    first, second = as_arrays(loader), as_arrays(loader)
    assert len(first) == len(second) == 3
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one["image"], two["image"])


# ---------------------------------------------------------------- unreadable images


@pytest.fixture
def damaged(image_folder):
    """Twelve images of which numbers 1, 4 and 10 cannot be read."""
    dataset = folder(image_folder({"a": 6, "b": 6}))
    bad = [dataset.where(i) for i in (1, 4, 10)]
    for path in bad:
        with open(path, "wb") as file:
            file.write(b"no image")
    return dataset, bad


@pytest.mark.smoke
@WORKERS
def test_unreadable_images_are_reported_once_and_skipped(damaged, warnings, num_workers):
    dataset, bad = damaged
    loader = Loader(dataset, EvaluationBatches(12, 4), num_workers=num_workers, max_unreadable=3)
    for _ in range(2):
        sizes = [len(batch["label"]) for batch in loader]
        assert sizes == [3, 3, 3]
        reported = warnings()
        assert len(reported) == 3
        for path, text in zip(bad, reported):
            assert path in text
    labels = np.concatenate([batch["label"] for batch in as_arrays(loader)])
    assert labels.tolist() == [0] * 4 + [1] * 5


@WORKERS
def test_more_unreadable_images_than_allowed_are_an_error(damaged, warnings, num_workers):
    dataset, bad = damaged
    loader = Loader(dataset, EvaluationBatches(12, 4), num_workers=num_workers, max_unreadable=2)
    batches = iter(loader)
    assert len(next(batches)["label"]) == 3
    assert len(next(batches)["label"]) == 3
    with pytest.raises(UnreadableImage, match="more than 2 unreadable images") as caught:
        next(batches)
    assert bad[2] in str(caught.value) and "max_unreadable" in str(caught.value)
    assert len(warnings()) == 2


@pytest.mark.smoke
@WORKERS
def test_evaluation_takes_no_unreadable_image(damaged, num_workers):
    dataset, bad = damaged
    loader = Loader(dataset, EvaluationBatches(12, 4), num_workers=num_workers, max_unreadable=0)
    with pytest.raises(UnreadableImage) as caught:
        list(loader)
    assert bad[0] in str(caught.value)


def test_a_path_is_reported_as_it_is_written(image_folder, warnings, save_image):
    root = image_folder({"a": 1, "b": 1})
    path = save_image(root / "a" / "two  spaces.png")
    path.write_bytes(b"no image")
    list(Loader(folder(root), EvaluationBatches(3, 3), max_unreadable=1))
    (text,) = warnings()
    assert str(path) in text


@WORKERS
def test_a_batch_without_one_readable_image_is_passed_over(damaged, warnings, num_workers):
    dataset, bad = damaged
    loader = Loader(dataset, EvaluationBatches(12, 1), num_workers=num_workers, max_unreadable=3)
    expected = [i for i in range(12) if i not in (1, 4, 10)]
    for _ in range(2):
        found = as_arrays(loader)
        assert [batch["label"].tolist() for batch in found] == [[int(i >= 6)] for i in expected]
        for i, batch in zip(expected, found):
            np.testing.assert_array_equal(batch["image"][0], dataset[i]["image"])
    assert len(warnings()) == 3


@WORKERS
def test_in_training_a_black_image_that_weighs_nothing_stands_for_an_empty_batch(
    damaged, num_workers
):
    dataset, _ = damaged
    dataset.transforms.append(lambda sample, rng: {**sample, "box": np.ones((2, 4), np.float32)})
    loader = Loader(
        dataset, EvaluationBatches(12, 1), NORMALIZE, num_workers=num_workers, max_unreadable=3,
        stand_ins=True,
    )  # fmt: skip
    batches = list(loader)
    assert [i for i, batch in enumerate(batches) if isinstance(batch, StandIn)] == [1, 4, 10]
    assert len(batches) == 12 and all(batch.keys() == batches[0].keys() for batch in batches)
    for name, value in batches[4].items():
        assert value.shape == batches[0][name].shape and value.dtype == batches[0][name].dtype
    black = -np.array([0.5, 0.4, 0.3], np.float32) / np.array([0.2, 0.3, 0.4], np.float32)
    np.testing.assert_allclose(batches[4]["image"].numpy()[0, :, 0, 0], black, rtol=1e-6)
    assert batches[4]["label"].tolist() == [0] and not batches[4]["box"].numpy().any()


def test_batch_transforms_draw_by_the_place_of_a_batch_also_behind_an_empty_one(damaged):
    dataset, _ = damaged
    order = TrainingBatches(12, 1, 1, 0, 0, 12)
    places = []
    loader = Loader(
        dataset, order, batch_rng=lambda place: places.append(place), stand_ins=True,
        max_unreadable=3,
    )  # fmt: skip
    kinds = [isinstance(batch, StandIn) for batch in loader]
    assert kinds == [keys[0].index in (1, 4, 10) for keys in order] and places == list(range(12))


@WORKERS
def test_the_next_readable_image_takes_the_place_of_an_unreadable_one(
    damaged, warnings, num_workers
):
    """Drawn as that image is where it stands by itself; behind the last one comes the first."""
    dataset, bad = damaged
    bad.append(dataset.where(11))
    with open(bad[-1], "wb") as file:
        file.write(b"no image")
    dataset.transforms.append(RandomHorizontalFlip())
    order = [[SampleKey(i, 3, 1, 7) for i in batch] for batch in ((0, 1, 2), (10, 11, 4))]
    loader = Loader(
        dataset, order, num_workers=num_workers, max_unreadable=4, replace_unreadable=True
    )
    found = as_arrays(loader)
    for batch, indices in zip(found, ((0, 2, 2), (0, 0, 5))):
        for image, index in zip(batch["image"], indices):
            np.testing.assert_array_equal(image, dataset[SampleKey(index, 3, 1, 7)]["image"])
    assert len(found) == 2 and sorted(loader.unreadable) == sorted(
        text.partition(": ")[2] for text in warnings()
    )
    assert {path for path in bad for text in loader.unreadable if path in text} == set(bad)
    assert len(loader.unreadable) == 4  # number 11 was met twice


@pytest.mark.parametrize("limit, said", [(2, "more than 2"), (100, "not one of the first 12")])
def test_the_search_for_a_replacement_ends(damaged, limit, said):
    """With the error that as many unreadable images give anyway."""
    dataset, _ = damaged
    for i in range(12):
        with open(dataset.where(i), "wb") as file:
            file.write(b"no image")
    read = []
    dataset.read = lambda index, read_it=dataset.read: (read.append(index), read_it(index))[1]
    loader = Loader(
        dataset, [[SampleKey(10)]], max_unreadable=limit, stand_ins=True, replace_unreadable=True
    )
    with pytest.raises(PasslError, match=said):
        list(loader)
    assert read[:3] == [10, 11, 0] and len(read) == {2: 3, 100: 24}[limit]


@pytest.mark.parametrize("limit", [2, 100])
def test_when_nothing_can_be_read_the_folder_is_asked_for(damaged, limit):
    dataset, _ = damaged
    for i in range(12):
        os.remove(dataset.where(i))
    for stand_ins in (True, False) if limit < 12 else (True,):
        loader = Loader(
            dataset, EvaluationBatches(12, 1), max_unreadable=limit, stand_ins=stand_ins
        )
        with pytest.raises(PasslError, match="is the data folder still there") as caught:
            list(loader)
        assert dataset.where(2 if limit < 12 else 11) in str(caught.value)


@WORKERS
def test_a_folder_that_is_gone_is_said_at_once(image_folder, num_workers):
    root = image_folder({"a": 3})
    data = folder(root)
    root.rename(root.with_name("away"))
    loader = Loader(data, EvaluationBatches(3, 3), num_workers=num_workers, max_unreadable=100)
    with pytest.raises(PasslError, match=f"^{root}: the data folder is gone") as caught:
        list(loader)
    assert not isinstance(caught.value, UnreadableImage)


# ---------------------------------------------------------------- other mistakes


@pytest.mark.smoke
@WORKERS
def test_images_of_differing_shape_are_a_clear_error(image_folder, save_image, num_workers):
    root = image_folder({"a": 2, "b": 1})
    save_image(root / "b" / "larger.png", size=(9, 9))
    text = error_of_reading(root, num_workers)
    assert "differ in shape" in text and "ResizeCenterCrop" in text
    assert "(5, 6, 3)" in text and "(9, 9, 3)" in text


@WORKERS
def test_a_transform_that_does_not_fit_the_image_says_so(image_folder, num_workers):
    root = image_folder({"a": 2, "b": 1})
    text = error_of_reading(root, num_workers, [{"name": "RandomCrop", "size": 8}])
    assert "RandomCrop of 8×8 from a smaller image" in text


def broken(sample, rng):
    raise RuntimeError("a mistake in the code")


def leaving(sample, rng):
    sys.exit("a mistake in the code")


def boxes(sample, rng):
    """As many as a user's image has; broadcasting would take one for three."""
    return {**sample, "boxes": np.zeros((1 if sample["label"] else 3, 4), np.float32)}


def sometimes(sample, rng):
    return {**sample, "extra": 1} if sample["label"] else sample


def text_field(sample, rng):
    return {**sample, "name": "x"}


def wide(sample, rng):
    """Paddle would take uint16 for bfloat16."""
    return {**sample, "mask": np.zeros((2, 2), np.uint16)}


def no_memory(sample, rng):
    raise MemoryError("Unable to allocate 12.0 GiB")


@WORKERS
@pytest.mark.parametrize(
    ("own", "said"),
    [
        (broken, ["RuntimeError: a mistake in the code", "000.png"]),
        (leaving, ["SystemExit: a mistake in the code", "000.png"]),
        (boxes, ["boxes", "(1, 4)", "(3, 4)"]),
        (sometimes, ["extra", "differing fields"]),
        (text_field, ["name", "<U1"]),
        (wide, ["mask", "uint16"]),
        (no_memory, ["memory is full", "000.png"]),
    ],
)
def test_what_a_users_transform_does_wrong_is_said(image_folder, num_workers, own, said):
    root = image_folder({"a": 2, "b": 1}, size=(12, 12))
    text = error_of_reading(root, num_workers, TRAINING, [own])
    assert all(part in text for part in said), text
    assert "died" not in text


@WORKERS
def test_an_error_in_making_a_batch_is_said_in_full(image_folder, num_workers, monkeypatch):
    def put(*arguments):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(Handover, "put", put)
    monkeypatch.setattr(loader_module.np, "stack", put)
    text = error_of_reading(image_folder({"a": 3}, size=(12, 12)), num_workers, TRAINING)
    assert "ValueError: a mistake of ours" in text and "died" not in text


@WORKERS
@pytest.mark.parametrize("shared", [True, False])
def test_numbers_of_differing_types_are_promoted(image_folder, num_workers, shared):
    """Also where the first is of the smaller type."""
    data = folder(image_folder({"a": 1, "b": 1}, size=(12, 12)), TRAINING)
    data.transforms.append(lambda s, rng: {**s, "score": 0.5 if s["label"] else 1})
    loader = Loader(
        data, EvaluationBatches(2, 2), num_workers=num_workers, use_shared_memory=shared
    )
    (batch,) = as_arrays(loader)
    assert batch["score"].tolist() == [1.0, 0.5]


def test_without_workers_a_signal_reaches_the_main_thread(image_folder):
    """Waiting inside of Paddle, it would be noted and never heard."""
    data = folder(image_folder({"a": 3}))
    data.transforms.append(lambda sample, rng: time.sleep(30))

    def heard(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, heard)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(Loader(data, EvaluationBatches(3, 3)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 10


# ---------------------------------------------------------------- systems and their limits


def test_where_paddle_has_no_workers_images_are_read_here(image_folder, warnings, monkeypatch):
    """As on macOS: Paddle says so itself, and takes 0."""

    class Mac:
        platform = "darwin"

        def __getattr__(self, name):
            return getattr(sys, name)

    data = folder(image_folder({"a": 20}, size=(12, 12)), TRAINING)
    expected = as_arrays(Loader(data, EvaluationBatches(20, 4)))
    monkeypatch.setattr(paddle.io.reader, "sys", Mac())
    loader_module._say_no_workers.cache_clear()
    for _ in range(2):
        found = as_arrays(Loader(data, EvaluationBatches(20, 4), num_workers=2))
        for one, other in zip(expected, found):
            np.testing.assert_array_equal(one["image"], other["image"])
    (said,) = warnings()
    assert "one process" in said


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "/dev/shm"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory is full"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_workers_that_cannot_be_started_name_the_cause(image_folder, error, cause, monkeypatch):
    """The third one fails; those before it are ended, and nothing is said behind our back."""
    started = []
    start = multiprocessing.Process.start

    def third_fails(self):
        if len(started) == 2:
            raise error
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.Process, "start", third_fails)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    data = folder(image_folder({"a": 3}))
    with pytest.raises(PasslError, match="4 data workers cannot be started") as caught:
        list(Loader(data, EvaluationBatches(3, 1), num_workers=4))
    assert cause in str(caught.value) and "loader.num_workers" in str(caught.value)
    assert len(started) == 2 and not any(worker.is_alive() for worker in started)
    del caught
    gc.collect()
    assert not unraisable


def test_a_full_dev_shm_is_named(image_folder, monkeypatch):
    """Before there is a worker: what Paddle leaves half made says nothing of its own."""

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(paddle.incubate.multiprocessing, "Queue", full)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    assert "/dev/shm" in error_of_reading(image_folder({"a": 3}), 4)
    gc.collect()
    assert not unraisable


@pytest.mark.parametrize(
    ("how", "said"), [(signal.SIGKILL, "memory was full"), (signal.SIGSEGV, "SIGSEGV")]
)
def test_a_worker_that_dies_is_named_with_what_it_was_reading(image_folder, quick_look, how, said):
    def dying(sample, rng):
        os.kill(os.getpid(), how)

    root = image_folder({"a": 2})
    text = error_of_reading(root, 1, own=[dying])
    assert "died" in text and said in text and str(root / "a" / "000.png") in text


# ---------------------------------------------------------------- backpressure and faults


def test_a_read_that_never_ends_is_named_and_stops_the_run(image_folder, warnings, quick_look):
    data = folder(image_folder({"a": 8}))
    read = data.read

    def hanging(index):
        if index == 5:
            time.sleep(1000)  # a network drive
        return read(index)

    data.read = hanging
    with pytest.raises(PasslError) as caught:
        list(Loader(data, EvaluationBatches(8, 2), num_workers=2, timeout=2))
    path = data.where(5)
    (warning,) = [line for line in warnings() if "no batch for" in line]
    assert f"has been reading {path} for" in warning and "waiting or handing" in warning
    error = str(caught.value)
    assert error.startswith("no batch for 2 s (loader.timeout)")
    assert path in error and "--resume auto" in error


@pytest.mark.smoke
@pytest.mark.parametrize("shared", [True, False])
def test_batches_are_the_same_however_they_are_handed_over(shared, image_folder):
    """More batches than there are slots, a short one at the end, kept while others arrive."""
    data = folder(image_folder({"a": 20, "b": 25}, size=(12, 12)), TRAINING)
    expected = list(Loader(data, EvaluationBatches(45, 2)))
    found = list(Loader(data, EvaluationBatches(45, 2), num_workers=2, use_shared_memory=shared))
    assert len(found) == len(expected) == 23 and found[-1]["label"].shape == [1]
    for one, other in zip(expected, found):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name].numpy(), other[name].numpy())


def test_nothing_is_put_into_dev_shm(image_folder):
    """A container has 64 MB there; PaddleClas' issue 999 is about what happens then."""
    data = folder(image_folder({"a": 8}, size=(12, 12)), TRAINING)
    for _ in Loader(data, EvaluationBatches(8, 2), num_workers=2):
        # Others may put something there at the same time; Paddle's names hold the process's id.
        mine = {str(pid) for pid in (os.getpid(), *children_of(os.getpid()))}
        assert len(mine) == 3
        assert not [name for name in os.listdir("/dev/shm") if mine & set(name.split("_"))]


def test_a_batch_that_does_not_fit_its_slot_takes_the_other_way(image_folder):
    large = [{"name": "RandomResizedCrop", "size": 40}]
    loader = Loader(folder(image_folder({"a": 8}), large), EvaluationBatches(8, 4), num_workers=2)
    expected = [batch["image"].numpy() for batch in loader]
    small = Handover(2, 10)  # of one page
    assert small.put(0, [{"image": np.zeros((40, 40, 3), np.uint8)}]) is None
    loader._handover = lambda: small
    found = [batch["image"].numpy() for batch in loader]
    assert len(found) == 2
    for one, other in zip(expected, found):
        np.testing.assert_array_equal(one, other)


def test_slots_are_used_again_and_not_before_they_are_free():
    handover = Handover(2, 100)
    samples = [{"x": np.full(5, i, np.int16), "label": i} for i in range(4)]
    notes = [handover.put(1, samples[i:]) for i in range(4)]
    batches = [handover.take(note) for note in reversed(notes)]
    assert [batch["label"].tolist() for batch in batches] == [[3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]
    assert batches[1]["x"].tolist() == [[2] * 5, [3] * 5] and batches[1]["x"].dtype == np.int16
    kept = batches[0]["x"].copy()
    handover.take(handover.put(1, samples[:1]))
    np.testing.assert_array_equal(batches[0]["x"], kept)


def test_a_worker_killed_for_want_of_memory_is_said():
    error = dead_worker(RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."))
    assert "ran out of memory" in str(error) and "use_shared_memory=false" in str(error)


# ---------------------------------------------------------------- repeated augmentation


@pytest.mark.parametrize("micro", [12, 4])
def test_repeated_augmentation(micro):
    """Each image stands in the batch with copies of its own numbers; the order is as without."""
    plain = [key for batch in TrainingBatches(48, 12, 12, 3, 0, 8) for key in batch]
    keys = [key for batch in TrainingBatches(48, 12, micro, 3, 0, 8, repeats=3) for key in batch]
    assert len(keys) == len(plain)
    assert [key.copy for key in keys] == [0, 1, 2] * 32
    epochs = [[key for key in keys if key.epoch == epoch] for epoch in (0, 1)]
    for epoch, of_epoch in enumerate(epochs):
        first = [key.index for key in plain if key.epoch == epoch][:16]
        assert [key.index for key in of_epoch[::3]] == first
        assert all(a.index == b.index for a, b in zip(of_epoch[::3], of_epoch[2::3]))
    assert epochs[0][0].index != epochs[1][0].index
    # Resumed in the middle of an epoch it is the same sequence.
    rest = [key for batch in TrainingBatches(48, 12, micro, 3, 5, 8, repeats=3) for key in batch]
    assert rest == keys[5 * 12 :]


def test_copies_of_an_image_differ(tmp_path, save_image):
    save_image(tmp_path / "a" / "x.png", size=(64, 64))
    data = folder(tmp_path, TRAINING)
    one, same, other = (data[SampleKey(0, 0, copy, 0)]["image"] for copy in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
