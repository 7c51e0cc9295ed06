"""SimCLR, MoCo v2 and BYOL on CIFAR-10, put together from lightly's parts and transforms.

With the settings of configs/*/…_cifar10_small.yaml, for scripts/self_supervised_cifar10.py.
GIVEN.npz holds ``train`` and ``test``, uint8 ``[n, 32, 32, 3]``; OUT.npz gets features of both,
``train_before``, ``test_before``, ``train_after`` and ``test_after``, and ``images_per_second``.

    python tests/reference/lightly_cifar10.py GIVEN.npz OUT.npz METHOD SEED EPOCHS
"""

import copy
import math
import sys
import time

import numpy as np
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.batchnorm import get_norm_layer
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import SimCLRTransform
from PIL import Image
from small_resnet import SmallResNet

BATCH, RATE, MOMENTUM, DECAY = 128, 0.06, 0.9, 5e-4
NORMALIZE = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images
        self.views = SimCLRTransform(
            input_size=32, cj_prob=0.8, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.0,
            normalize=NORMALIZE,
        )  # fmt: skip

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.views(Image.fromarray(self.images[index]))


class Method(torch.nn.Module):
    """One of the methods; ``loss(one, two)`` of two views, ``follow(share)`` after a step.

    Args:
        name: which.
        width: of the backbone's first stage; each of the other three has twice that before it.
    """

    def __init__(self, name, width=16):
        super().__init__()
        self.name = name
        norm = (lambda channels: get_norm_layer(channels, 4)) if name == "MoCo v2" else None
        self.backbone = SmallResNet([width * 2**i for i in range(4)], norm=norm)
        features = width * 2**3
        if name == "SimCLR":
            self.projector = heads.SimCLRProjectionHead(features, 128, 64)
            self.contrast = NTXentLoss(0.5)
        elif name == "MoCo v2":
            self.projector = heads.MoCoProjectionHead(features, 128, 64)
            self.contrast = NTXentLoss(0.1, (4096, 64))
        else:
            self.projector = heads.BYOLProjectionHead(features, 512, 128)
            self.predictor = heads.BYOLPredictionHead(128, 512, 128)
            self.contrast = NegativeCosineSimilarity()
        self.twins = [copy.deepcopy(part) for part in (self.backbone, self.projector)]
        for twin in self.twins:
            deactivate_requires_grad(twin)

    def loss(self, one, two):
        if self.name == "SimCLR":
            return self.contrast(*self.projector(self.backbone(torch.cat([one, two]))).chunk(2))
        if self.name == "MoCo v2":
            query = self.projector(self.backbone(one))
            with torch.no_grad():
                order = torch.randperm(len(two))
                key = self.twins[1](self.twins[0](two[order]))[torch.argsort(order)]
            return self.contrast(query, key)
        p = [self.predictor(self.projector(self.backbone(x))) for x in (one, two)]
        with torch.no_grad():
            z = [self.twins[1](self.twins[0](x)) for x in (one, two)]
        # The scale of the authors' loss: four times that of lightly's examples.
        return 2.0 * (self.contrast(p[0], z[1]) + self.contrast(p[1], z[0]))

    def follow(self, share):
        if self.name == "SimCLR":
            return
        m = 0.99 if self.name == "MoCo v2" else 1 - 0.01 * (math.cos(math.pi * share) + 1) / 2
        for part, twin in zip((self.backbone, self.projector), self.twins):
            update_momentum(part, twin, m)


def descent(method):
    return torch.optim.SGD(method.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def embed(network, images):
    mean, std = (torch.tensor(NORMALIZE[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    network.eval()
    found = []
    with torch.no_grad():
        for begin in range(0, len(images), 250):
            x = torch.from_numpy(images[begin : begin + 250]).permute(0, 3, 1, 2) / 255
            found.append(network((x - mean) / std).numpy())
    network.train()
    return np.concatenate(found)


def main():
    given, out, name, seed, epochs = sys.argv[1:]
    torch.manual_seed(int(seed))
    torch.set_num_threads(1)
    with np.load(given) as arrays:
        images = {key: arrays[key] for key in ("train", "test")}
    method = Method(name)
    found = {f"{key}_before": embed(method.backbone, images[key]) for key in images}
    loader = torch.utils.data.DataLoader(
        Pairs(images["train"]), BATCH, shuffle=True, drop_last=True, num_workers=1
    )
    optimizer = descent(method)
    total, step, speeds = int(epochs) * len(loader), 0, []
    for epoch in range(int(epochs)):
        for one, two in loader:
            begun = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * step / total)) / 2
            loss = method.loss(one, two)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.follow(step / total)
            step += 1
            speeds.append(BATCH / (time.perf_counter() - begun))
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {np.median(speeds):.0f} images/s")
    found.update({f"{key}_after": embed(method.backbone, images[key]) for key in images})
    np.savez(out, **found, images_per_second=np.median(speeds), loss=loss.item())


if __name__ == "__main__":
    main()
