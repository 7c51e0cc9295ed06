"""Images and texts whose embeddings are told, and a set of such pairs, for measuring retrieval."""

import numpy as np
import paddle

from passl.datasets import build_dataset
from passl.distributed.processes import Processes
from passl.evaluation import evaluation_loader
from passl.modeling.architectures import Architecture
from passl.tokenization import CLIPTokenizer
from passl.utils.config import Config

CLOCK = ("seconds", "images_per_second")


class Told(Architecture):
    """Gives the embeddings that it is told.

    Of images, whose numbers stand in their first pixels, and of texts, which it knows by their ids.

    Attributes:
        seen: the shape of each batch of ids.
    """

    evaluator = "Retrieval"
    context = 77

    def __init__(self, images, texts, context=77):
        super().__init__()
        self.tokenizer, self.context, self.seen = CLIPTokenizer(), context, []
        self._images = images
        self._texts = {tuple(self.tokenizer.encode(t)[: context - 2]): e for t, e in texts.items()}

    def embed_images(self, images):
        pixels = images.numpy()[:, 0, 0].astype(int)  # [N, 3]: the number in three digits
        numbers = pixels @ np.array([256**2, 256, 1])
        return paddle.to_tensor(np.array([self._images[n] for n in numbers]), dtype="float32")

    def embed_texts(self, ids):
        self.seen.append(tuple(ids.shape))
        found = []
        for row in ids.tolist():
            end = row.index(self.tokenizer.end)
            assert row[0] == self.tokenizer.start and not any(row[end + 1 :])
            found.append(self._texts[tuple(row[1:end])])
        return paddle.to_tensor(np.array(found), dtype="float32")

    def forward(self, batch):
        assert list(batch) == ["image"], "what images are embedded by is theirs alone"
        return {"image_embedding": self.embed_images(batch["image"])}


def pairs_loader(captions, batch, rank=0, size=1):
    """A loader over images that are their own numbers, with the captions of each."""
    cfg = {"name": "Synthetic", "num_classes": 1, "length": len(captions), "pictures": 1,
           "height": 2, "width": 2}  # fmt: skip
    dataset = build_dataset(cfg)

    def read(index):
        return np.full((2, 2, 3), [index // 256**2, index // 256 % 256, index % 256], np.uint8)

    dataset.read, dataset.labels, dataset._length = read, None, len(captions)
    dataset.captions = lambda index: list(captions[index])
    # What training draws is no business of an evaluation's.
    dataset.untransformed = lambda index, image: {"image": image, "text": np.zeros(2, np.int64)}
    section = {
        "sampler": {"batch_size": batch},
        "batch_transforms": [],
        "loader": {"num_workers": 0, "use_shared_memory": False, "timeout": 9},
    }
    return evaluation_loader(dataset, Config(section), Processes(rank, size))


def formula(rows, width, k):
    """Numbers in [-0.5, 0.5) of which no library has a say, float64 ``[rows, width]``."""
    n = np.arange(rows * width, dtype=np.int64)
    return (((31 * n * n + 7919 * n + 104729 * k) % 10007) / 10007 - 0.5).reshape(rows, width)


def made_up_pairs(images=60, width=12):
    """Images of one to four captions, near them: embeddings, captions, embeddings of texts."""
    embeddings = formula(images, width, 1)
    captions = [[f"picture {i} text {j}" for j in range(1 + i % 4)] for i in range(images)]
    owner = np.repeat(np.arange(images), [len(own) for own in captions])
    noise = formula(len(owner), width, 2)
    near = 0.4 * embeddings[owner] + noise
    return embeddings, captions, dict(zip(sum(captions, []), near))


def with_ties(images=50, width=4):
    """Embeddings of few values, captions that stand at several images, or twice at one."""
    rng = np.random.default_rng(3)
    captions = [
        [f"text {rng.integers(0, 40)}" for _ in range(1 + rng.integers(0, 4))]
        for _ in range(images)
    ]
    captions[7] = ["text 3", "text 3", "text 5"]
    texts = {f"text {i}": rng.integers(-1, 2, width) + [0, 0, 0, 0.5] for i in range(40)}
    return rng.integers(-1, 2, (images, width)) + np.array([0, 0, 0.5, 0]), captions, texts
