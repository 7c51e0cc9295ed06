import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import children_of
from PIL import Image

from passl.datasets import (
    EvaluationBatches,
    Loader,
    SampleKey,
    TrainingBatches,
    UnreadableImage,
    build_dataset,
    dead_worker,
)
from passl.datasets.handover import Handover
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


def error_of_reading(root, transforms, num_workers, first=""):
    """Returns the error of reading a folder as one batch.

    With workers it happens in another process, so that a batch that never arrives from them is a
    failure instead of a test that never ends; ``first`` is code to be run there before.
    """
    if num_workers == 0 and not first:
        data = folder(root, transforms)
        with pytest.raises(Exception) as caught:
            list(Loader(data, EvaluationBatches(len(data), len(data))))
        return f"{type(caught.value).__name__} {caught.value}"
    code = (
        "import ast, sys\n"
        "import passl.datasets as d\n"
        f"{first}\n"
        "root, transforms, workers = ast.literal_eval(sys.argv[1])\n"
        "cfg = {'name': 'ImageFolder', 'dataroot': root, 'transforms': transforms}\n"
        "data = d.build_dataset(cfg)\n"
        "batches = d.EvaluationBatches(len(data), len(data))\n"
        "try:\n"
        "    print(len(list(d.Loader(data, batches, num_workers=workers))), 'batches')\n"
        "except Exception as error:\n"
        "    print('error:', type(error).__name__, error)\n"
    )
    arguments = repr((str(root), transforms, num_workers))
    with subprocess.Popen(
        [sys.executable, "-c", code, arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("the batch never arrived")
    assert "error: " in output, output
    return output.split("error: ")[1]


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


def test_a_batch_without_one_readable_image_is_an_error(damaged, warnings):
    dataset, bad = damaged
    loader = Loader(dataset, EvaluationBatches(12, 1), max_unreadable=3)
    with pytest.raises(PasslError, match="not one image of a batch could be read"):
        list(loader)
    assert bad[0] in warnings()[0]


# ---------------------------------------------------------------- other mistakes


@pytest.mark.smoke
@WORKERS
def test_images_of_differing_shape_are_a_clear_error(image_folder, save_image, num_workers):
    root = image_folder({"a": 2, "b": 1})
    save_image(root / "b" / "larger.png", size=(9, 9))
    text = error_of_reading(root, [], num_workers)
    assert text.startswith("PasslError") and "differ in shape" in text
    assert "(5, 6, 3)" in text and "(9, 9, 3)" in text and "ResizeCenterCrop" in text


@WORKERS
def test_a_transform_that_does_not_fit_the_image_says_so(image_folder, num_workers):
    root = image_folder({"a": 2, "b": 1})
    text = error_of_reading(root, [{"name": "RandomCrop", "size": 8}], num_workers)
    assert text.startswith("PasslError")
    assert "RandomCrop of 8×8 from a smaller image" in text


@WORKERS
def test_a_mistake_in_a_transforms_code_is_not_called_a_dead_worker(image_folder, num_workers):
    broken = (
        "def broken(sample, rng): raise RuntimeError('a mistake in the code')\n"
        "d.TRANSFORMS.register_variant('Broken', lambda: broken)"
    )
    root = image_folder({"a": 2, "b": 1})
    text = error_of_reading(root, [{"name": "Broken"}], num_workers, first=broken)
    assert "a mistake in the code" in text and "worker died" not in text


# ---------------------------------------------------------------- backpressure and faults

STUCK = """
from passl.datasets.files import ImageFolder
_read = ImageFolder.read
def read(self, index):
    if index == 5:
        time.sleep(1000)  # a network drive that hangs
    return _read(self, index)
ImageFolder.read = read
"""


def test_a_read_that_never_ends_is_named_and_stops_the_run(tmp_path, save_image):
    for i in range(8):
        save_image(tmp_path / "a" / f"{i}.png")
    code = (
        "import sys, time\nimport passl.datasets as d\n" + STUCK +
        "from passl.utils.logging import log_to_console\nlog_to_console()\n"
        "data = d.build_dataset({'name': 'ImageFolder', 'dataroot': sys.argv[1]})\n"
        "batches = d.EvaluationBatches(len(data), 2)\n"
        "try:\n"
        "    list(d.Loader(data, batches, num_workers=2, timeout=4))\n"
        "except Exception as error:\n"
        "    print('error:', type(error).__name__, error)\n"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    path = str(tmp_path / "a" / "5.png")
    warning, error = [line for line in done.stdout.splitlines() if "no batch for" in line]
    assert f"has been reading {path} for" in warning and "waiting or handing" in warning
    assert error.startswith("error: PasslError no batch for 4 s (loader.timeout)")
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
