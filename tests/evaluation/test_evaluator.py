import numpy as np
import paddle
import pytest
from helpers import small_config

from passl.datasets import build_dataset
from passl.evaluation import crop_ratio, evaluate, evaluation_loader
from passl.modeling.architectures import build_architecture
from passl.utils.config import Config


def parts(photos, batch):
    cfg = small_config(photos)
    cfg["model"]["head"]["init"] = "lecun_normal"
    section = cfg["dataloader"]["val"]
    section["sampler"]["batch_size"] = batch
    section["loader"] = {"num_workers": 0, "use_shared_memory": False, "timeout": 9}
    paddle.seed(0)
    return build_architecture(cfg["model"]), build_dataset(section["dataset"]), Config(section)


@pytest.mark.smoke
@pytest.mark.parametrize("batch", [1, 5, 13, 64])
def test_counts_exactly_the_samples_of_the_set(photos, batch):
    model, dataset, section = parts(photos, batch)
    result = evaluate(model, evaluation_loader(dataset, section))
    assert model.training  # and leaves the network as it was

    model.eval()
    right, loss = 0, 0.0
    for i in range(len(dataset)):
        sample = dataset[i]
        image = (sample["image"].astype("float32") / 255 - 0.5) / 0.5
        logits = model({"image": paddle.to_tensor(image.transpose(2, 0, 1)[None])})["logits"]
        logits = logits.numpy()[0].astype("float64")
        right += int(np.argmax(logits) == sample["label"])
        loss += np.log(np.exp(logits).sum()) - logits[sample["label"]]
    assert result["samples"] == len(dataset) == 13
    assert result["top1"] == 100 * right / 13
    assert result["top5"] == 100.0  # three classes
    assert result["loss"] == pytest.approx(loss / 13, rel=1e-5)
    assert crop_ratio(dataset) == 0.875


def test_can_be_abandoned(photos):
    model, dataset, section = parts(photos, 5)
    assert evaluate(model, evaluation_loader(dataset, section), stop=lambda: True) == {}
    assert model.training
