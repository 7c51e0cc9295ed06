"""Recalls of told embeddings by CLIP_benchmark, through the network and data that it asks for.

python tests/reference/clip_benchmark_recall.py PAIRS.npz OUT.json

The arrays: ``images`` [n, d], ``texts`` [m, d], ``owners`` [m] rising, the image of each text.
"""

import json
import sys

import numpy as np
import torch
from clip_benchmark.metrics.zeroshot_retrieval import evaluate

with np.load(sys.argv[1]) as given:
    images, texts, owners = (
        torch.from_numpy(given[name]) for name in ("images", "texts", "owners")
    )


class Told:
    def encode_image(self, numbers):
        return images[numbers]

    def encode_text(self, numbers):
        return texts[numbers]


def batches(size=16):
    for begin in range(0, len(images), size):
        numbers = torch.arange(begin, min(begin + size, len(images)))
        yield numbers, [torch.nonzero(owners == n)[:, 0].tolist() for n in numbers]


found = evaluate(Told(), batches(), torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10])
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(found, file)
