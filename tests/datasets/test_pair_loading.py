"""Pairs on their way to the network: workers, shared memory, bad images, pictures of a batch."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import photograph
from pair_files import samples, shard

from passl.datasets import Loader, TrainingBatches, UnreadableImage, build_dataset
from passl.datasets.batch_cells import as_title, batch_cells
from passl.datasets.dataset import SampleKey
from passl.tokenization import CLIPTokenizer
from passl.utils.errors import PasslError

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
WORKERS = pytest.mark.parametrize("num_workers", [0, 2])
COUNT = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))


def pairs_of(root, context=24, **arguments):
    transforms = [{"name": "Tokenize", "context": context}]
    cfg = {"name": "ImageTextShards", "dataroot": str(root), "transforms": transforms, **arguments}
    return build_dataset(cfg)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for first in (0, 6):
        shard(folder / f"{first:05d}.tar", samples(first, 6))
    return folder


def numbers_shown(batch):
    """Returns which photograph each image of a batch is, by its pixels."""
    known = {np.asarray(photograph(i, (20, 16))).tobytes(): i for i in range(COUNT)}
    images = batch["image"].numpy()
    assert images.shape[1:] == (16, 20, 3)
    return [known[image.tobytes()] for image in images]


def numbers_told(batch):
    """Returns the number in the caption of each image of a batch."""
    tokenizer = CLIPTokenizer()
    told = [tokenizer.decode(ids) for ids in batch["text"].numpy().tolist()]
    assert all(text.startswith("caption ") and text.endswith(" 第") for text in told)
    return [int(text[8:-2].replace(" ", "")) for text in told]


@pytest.mark.smoke
@WORKERS
def test_each_image_comes_with_its_own_caption(root, num_workers):
    dataset = pairs_of(root)
    batches = [[SampleKey(i) for i in (7, 0, 11, 3)], [SampleKey(i) for i in (5, 5, 6, 2)]]
    found = list(Loader(dataset, batches, num_workers=num_workers))
    for batch, keys in zip(found, batches):
        assert set(batch) == {"image", "text"}
        assert batch["text"].numpy().dtype == np.int64 and batch["text"].shape == [4, 24]
        assert numbers_shown(batch) == numbers_told(batch) == [key.index for key in keys]


@WORKERS
def test_an_image_in_the_place_of_a_bad_one_brings_its_own_caption(root, num_workers):
    broken = samples(0, 6)
    for i in (2, 3):
        broken[i][1]["png"] = broken[i][1]["png"][:50]
    shard(root / "00000.tar", broken)
    dataset = pairs_of(root)
    loader = Loader(
        dataset, [[SampleKey(i) for i in (1, 2, 3, 9)]], num_workers=num_workers,
        max_unreadable=4, replace_unreadable=True,
    )  # fmt: skip
    (batch,) = loader
    assert numbers_shown(batch) == numbers_told(batch) == [1, 4, 4, 9]
    assert len(loader.unreadable) == 2
    with pytest.raises(PasslError):
        list(Loader(dataset, [[SampleKey(2)]], num_workers=num_workers))
    with pytest.raises(UnreadableImage, match=r"00000.tar:000000002.png"):
        dataset[2]


def test_a_text_longer_than_a_slot_has_room_for(root):
    """2,000 ids are 16 kB, more than the image."""
    dataset = pairs_of(root, context=2000)
    batches = [[SampleKey(i) for i in range(first, first + 4)] for first in (0, 4, 8)]
    for batch, keys in zip(Loader(dataset, batches, num_workers=2), batches):
        assert batch["text"].shape == [4, 2000]
        assert numbers_shown(batch) == numbers_told(batch) == [key.index for key in keys]


def test_the_number_of_workers_and_the_place_of_a_resume_change_nothing(root):
    """With several captions an image: those that are drawn are the same too."""
    texts = [f"caption {i} {j} 第" for i in range(2) for j in range(9)]
    facts = [("a", texts[:9]), ("b", texts[9:])]
    shard(root / "list.tar", [
        (key, {**samples(i, 1)[0][1], "json": json.dumps({"all": own}).encode()})
        for i, (key, own) in enumerate(facts)
    ])  # fmt: skip
    dataset = pairs_of(root, pattern="list.tar", caption="json:all")
    tokenizer = CLIPTokenizer()

    def drawn(num_workers, start=0):
        batches = TrainingBatches(2, 2, 2, seed=5, start_step=start, end_step=8)
        loader = Loader(dataset, batches, num_workers=num_workers)
        return [
            [tokenizer.decode(ids) for ids in batch["text"].numpy().tolist()] for batch in loader
        ]

    whole = drawn(0)
    assert len({text for batch in whole for text in batch}) > 4, "one of several is drawn"
    assert drawn(2) == whole
    assert drawn(0, start=2) == drawn(2, start=2) == whole[2:]


def test_a_batch_is_pictured_with_what_is_read(root):
    dataset = pairs_of(root)
    normalize = [{"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}]
    loader = Loader(dataset, [[SampleKey(10), SampleKey(3)]], normalize)
    (batch,) = loader
    cells = batch_cells(batch, loader)
    assert [title for _, title in cells] == ["caption 1 0 第", "caption 3 第"]
    np.testing.assert_array_equal(cells[0][0], np.asarray(photograph(10, (20, 16))))
    assert as_title(" a\n\n  cat 狗\t") == "a cat 狗"
    assert as_title("x" * 10_000) == "x" * 200


# ------------------------------------------------ a shard of img2dataset's writer


@pytest.mark.smoke
def test_a_shard_is_read_as_webdataset_reads_it():
    expected = json.loads((GOLDEN / "img2dataset.json").read_text(encoding="utf-8"))
    for caption, field in (("txt", "txt"), ("json:caption", "caption")):
        dataset = pairs_of(GOLDEN, pattern="img2dataset.tar", caption=caption)
        found = [
            {
                "key": dataset.path(i).rpartition(":")[2],
                "sha256": hashlib.sha256(dataset.read_bytes(i)).hexdigest(),
                "caption": dataset.captions(i),
            }
            for i in range(len(dataset))
        ]
        assert found == [
            {
                "key": f"{sample['key']}.jpg",
                "sha256": sample["sha256"],
                "caption": [sample[field].strip()],
            }
            for sample in expected
            if sample[field] and sample[field].strip()
        ]
        assert len(found) == 4, "two of the six have no caption"
    assert "http" not in str(found), "the key of another column"
