"""Fits a head to a random network with photographs, and validates the file as timm validates.

The network's features are those of random weights; the head on them is fitted by least squares, so
that the answers are far from chance and far from perfect. WEIGHTS gets the whole network. The
validation is that of validate.py in timm's repository, which its package leaves out: the same
functions of timm, called in the same way.

    python tests/reference/timm_validation.py mixer_s32_224 FIT TEST WEIGHTS.safetensors RESULT.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from mixers import randomize, save
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import load_checkpoint
from timm.utils import AverageMeter, accuracy
from timm_beit import randomize as randomize_transformer


def loader_for(model, folder, batch_size):
    data_config = resolve_data_config({}, model=model, use_test_size=True)
    dataset = create_dataset("", folder, input_img_mode="RGB")
    return dataset, create_loader(
        dataset,
        input_size=data_config["input_size"],
        batch_size=batch_size,
        use_prefetcher=True,
        interpolation=data_config["interpolation"],
        mean=data_config["mean"],
        std=data_config["std"],
        num_workers=2,
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config["crop_mode"],
        device=torch.device("cpu"),
    )


@torch.inference_mode()
def fit_head(model, folder, batch_size):
    """Sets the head to the ridge regression of one-hot labels on the standardized features."""
    _, loader = loader_for(model, folder, batch_size)
    features, labels = [], []
    for images, targets in loader:
        features.append(model.forward_head(model.forward_features(images), pre_logits=True))
        labels.append(targets)
    x, y = torch.cat(features).double().numpy(), torch.cat(labels).numpy()
    mean, std = x.mean(axis=0), x.std(axis=0)
    z, wanted = (x - mean) / std, np.eye(model.num_classes)[y] - 1 / model.num_classes
    weight = np.linalg.solve(z.T @ z + 30.0 * np.eye(z.shape[1]), z.T @ wanted) / std[:, None]
    head = model.get_classifier()
    head.weight.copy_(torch.from_numpy(10 * weight.T))
    head.bias.copy_(torch.from_numpy(-10 * mean @ weight))


@torch.inference_mode()
def validate(model, folder, batch_size):
    dataset, loader = loader_for(model, folder, batch_size)
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    criterion = torch.nn.CrossEntropyLoss()
    for images, targets in loader:
        output = model(images)
        loss = criterion(output, targets)
        acc1, acc5 = accuracy(output, targets, topk=(1, 5))
        losses.update(loss.item(), len(output))
        top1.update(acc1.item(), len(output))
        top5.update(acc5.item(), len(output))
    return {
        "samples": top1.count,
        # The averages are percentages in which a count hides.
        "correct1": round(top1.avg * top1.count / 100),
        "correct5": round(top5.avg * top5.count / 100),
        "loss": losses.avg,
        "last_batch": len(output),
        "classes": sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.get),
    }


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("fit", type=Path)
parser.add_argument("test", type=Path)
parser.add_argument("weights", type=Path)
parser.add_argument("result", type=Path)
parser.add_argument("--batch-size", type=int, default=50)
arguments = parser.parse_args()

num_classes = sum(path.is_dir() for path in arguments.fit.iterdir())
fitted = timm.create_model(arguments.model, num_classes=num_classes)
if arguments.model.startswith("mixer"):
    fitted = randomize(fitted, seed=0)
else:
    fitted = randomize_transformer(fitted)
fit_head(fitted, arguments.fit, arguments.batch_size)
save(fitted.state_dict(), arguments.weights)

loaded = timm.create_model(arguments.model, num_classes=num_classes)
load_checkpoint(loaded, str(arguments.weights))
result = validate(loaded.eval(), arguments.test, arguments.batch_size)
arguments.result.write_text(json.dumps(result))
