"""k nearest neighbours against float64 NumPy, alone and over processes."""

import json

import numpy as np
import paddle
import pytest
import yaml
from helpers import records, run_here, small_config, start_processes
from thread_processes import Thread, gather_rows, in_two

from passl.datasets import build_dataset
from passl.distributed.processes import Processes
from passl.engine import train
from passl.evaluation import evaluation_loader, gathering, neighbours
from passl.evaluation.neighbours import Neighbours
from passl.modeling.architectures import Architecture
from passl.modeling.layers.embeddings import effective_rank
from passl.utils.config import Config, get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile

CLASSES = 8


class Features(Architecture):
    """Gives the features that it is told of an image, whose number stands in its first pixel."""

    def __init__(self, sets):
        super().__init__()
        self._sets = sets

    def forward(self, batch):
        rows = batch["image"].numpy()[:, 0, 0]  # [N, 3]: the number in two digits, and of which set
        numbers = rows[:, 0].astype(int) * 256 + rows[:, 1]
        features = [self._sets[which][number] for which, number in zip(rows[:, 2], numbers)]
        return {"features": paddle.to_tensor(np.array(features), dtype="float32")}


def numbered(which, labels, batch, rank=0, size=1):
    """A loader over images that are their own numbers."""
    cfg = {"name": "Synthetic", "num_classes": CLASSES, "length": len(labels), "pictures": 1,
           "height": 2, "width": 2}  # fmt: skip
    dataset = build_dataset(cfg)
    dataset.labels = np.asarray(labels)

    def read(index):
        return np.full((2, 2, 3), [index // 256, index % 256, which], np.uint8)

    dataset.read = read
    dataset.digest = lambda: str(which)
    section = {
        "sampler": {"batch_size": batch},
        "batch_transforms": [],
        "loader": {"num_workers": 0, "use_shared_memory": False, "timeout": 9},
    }
    return evaluation_loader(dataset, Config(section), Processes(rank, size))


def by_hand(queries, bank, bank_labels, k, temperature, same=False):
    """The scores ``[n, classes]`` in float64, one query after the other."""
    queries, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, bank))
    scores = np.zeros((len(queries), CLASSES))
    for i, query in enumerate(queries):
        similarity = bank @ query
        if same:
            similarity[i] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(k, len(bank) - same)]
        for j in nearest:
            vote = np.exp((similarity[j] - similarity[nearest[0]]) / temperature)
            scores[i, bank_labels[j]] += vote
    return scores


def accuracy(scores, labels, top):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return 100 * np.mean([label in row for row, label in zip(order, labels)])


def cloud(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(9).normal(0, 1, (CLASSES, 12))
    return (centres[labels] + rng.normal(0, 1.2, (count, 12))).astype(np.float32), labels


@pytest.mark.parametrize(
    "k, temperature, batch", [(1, 0.07, 64), (7, 0.07, 6), (20, 1.0, 7), (500, 0.5, 50)]
)
def test_agrees_with_numpy(k, temperature, batch):
    queries, labels = cloud(0, 61)
    bank, bank_labels = cloud(1, 300)
    network = Features({0: queries, 1: bank})
    record = Neighbours(k, temperature).evaluate(
        network, numbered(0, labels, batch), {"bank": numbered(1, bank_labels, batch)}
    )
    scores = by_hand(
        queries.astype(np.float64), bank.astype(np.float64), bank_labels, k, temperature
    )
    assert record["knn_top1"] == accuracy(scores, labels, 1)
    assert record["knn_top5"] == accuracy(scores, labels, 5)
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert record["spread"] == pytest.approx(units.std(0).mean() * 12**0.5, rel=1e-5)
    assert record["effective_rank"] == pytest.approx(
        effective_rank(paddle.to_tensor(units)), rel=1e-5
    )
    assert 20 < record["knn_top1"] < record["knn_top5"] <= 100
    assert (record["k"], record["temperature"]) == (k, temperature)
    assert (record["bank"], record["samples"]) == (300, 61)


def test_the_published_shares():
    """Two classes in turn, four in the bank: the nearest votes decide by exp(similarity / T)."""
    angles = np.radians([0.0, 10.0, 25.0, 90.0])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    query = np.array([[1.0, 0.0]])
    for k, temperature in ((2, 0.07), (3, 0.07), (3, 0.001)):
        scores = by_hand(query, bank, np.array([0, 1, 1, 0]), k, temperature)
        winner = int(scores[0].argmax())
        network = Features({0: query, 1: bank})
        record = Neighbours(k, temperature).evaluate(
            network, numbered(0, [winner], 1), {"bank": numbered(1, [0, 1, 1, 0], 2)}
        )
        assert record["knn_top1"] == 100.0
    # At T = 0.07 two neighbours of class 1 at 10° and 25° outweigh one of class 0 at 0°.
    assert by_hand(query, bank, np.array([0, 1, 1, 0]), 3, 0.07)[0].argmax() == 1
    assert by_hand(query, bank, np.array([0, 1, 1, 0]), 3, 0.001)[0].argmax() == 0


def test_of_equals_the_first_in_the_bank_is_nearer():
    bank = np.ones((40, 3))
    bank[30] = [1, 2, 3]
    labels = np.arange(40) % CLASSES
    network = Features({0: np.ones((1, 3)), 1: bank})
    for batch in (1, 3, 40):
        for k in (1, 3):  # all votes are equal: the lowest class of the first k, which is 0
            record = Neighbours(k).evaluate(
                network, numbered(0, [0], 1), {"bank": numbered(1, labels + (k > 1), batch)}
            )
            assert record["knn_top1"] == (100.0 if k == 1 else 0.0)


def test_no_image_is_a_neighbour_of_itself():
    features, labels = cloud(0, 50)
    network = Features({0: features})
    both = [numbered(0, labels, 8), numbered(0, labels, 7)]
    record = Neighbours(1).evaluate(network, both[0], {"bank": both[1]})
    scores = by_hand(features, features, labels, 1, 0.07, same=True)
    assert record["knn_top1"] == accuracy(scores, labels, 1) < 100


def test_what_it_cannot_work_with():
    queries, labels = cloud(0, 5)
    for bad, said in ((np.full_like(queries, np.nan), "not finite"),):
        with pytest.raises(PasslError, match=said):
            loaders = numbered(0, labels, 5), {"bank": numbered(1, labels, 5)}
            Neighbours().evaluate(Features({0: bad, 1: queries}), *loaders)

    class Nothing(Architecture):
        def forward(self, batch):
            return {"logits": batch["image"]}

    with pytest.raises(PasslError, match="needs an architecture that returns 'features'; this one"):
        Neighbours().evaluate(Nothing(), numbered(0, labels, 5), {"bank": numbered(0, labels, 5)})
    unlabelled = numbered(1, labels, 5)
    unlabelled.dataset.labels = None
    for loaders in (
        (unlabelled, {"bank": numbered(0, labels, 5)}),
        (numbered(0, labels, 5), {"bank": unlabelled}),
    ):
        with pytest.raises(PasslError, match="no label, which the evaluator Neighbours needs"):
            Neighbours().evaluate(Features({0: queries, 1: queries}), *loaders)
    for arguments, said in (({"k": 0}, "at least 1"), ({"temperature": 0.0}, "above 0")):
        with pytest.raises(PasslError, match=said):
            Neighbours(**arguments)


def test_it_can_be_abandoned_in_either_pass():
    queries, labels = cloud(0, 10)
    network = Features({0: queries, 1: queries})
    for most in (1, 3):
        calls = []

        def stop(calls=calls, most=most):
            calls.append(1)
            return len(calls) > most

        loaders = numbered(0, labels, 5), {"bank": numbered(1, labels, 5)}
        assert Neighbours().evaluate(network, *loaders, stop=stop) == {}
        assert len(calls) == most + 1 and network.training


@pytest.fixture
def threads(monkeypatch):
    for module in (neighbours, gathering):
        monkeypatch.setattr(module, "gather_rows", gather_rows)


def test_one_that_is_asked_to_stop_stops_all(threads):
    queries, labels = cloud(0, 32)

    def measure(rank):
        loaders = numbered(0, labels, 8, rank, 2), {"bank": numbered(1, labels, 8, rank, 2)}
        network = Features({0: queries, 1: queries})
        stop = [lambda: True, lambda: False][rank]
        return Neighbours(9).evaluate(network, *loaders, stop=stop, processes=Thread(rank, 2))

    assert in_two(measure) == [{}, {}]


def test_who_looks_on_sees_the_evaluated_set_alone():
    queries, labels = cloud(0, 10)
    seen = []
    Neighbours(3).evaluate(
        Features({0: queries, 1: queries}),
        numbered(0, labels, 5),
        {"bank": numbered(1, labels, 5)},
        look=lambda outputs, batch: seen.append(batch["label"].tolist()),
    )
    assert sum(seen, []) == labels.tolist()


@pytest.mark.parametrize("count", [61, 5])
def test_two_processes_give_what_one_does(threads, monkeypatch, count):
    """To the last digit; of five images in one batch, one process has none."""
    (queries, labels), (bank, bank_labels) = cloud(0, count), cloud(1, 90)

    def measure(rank):
        loaders = [
            numbered(which, of, 8, rank, 2) for which, of in enumerate((labels, bank_labels))
        ]
        network = Features({0: queries, 1: bank})
        return Neighbours(9).evaluate(
            network, loaders[0], {"bank": loaders[1]}, processes=Thread(rank, 2)
        )

    both = in_two(measure)
    monkeypatch.undo()
    alone = Neighbours(9).evaluate(
        Features({0: queries, 1: bank}),
        numbered(0, labels, 8),
        {"bank": numbered(1, bank_labels, 8)},
    )
    clock = ("seconds", "images_per_second")
    one, *two = ({k: v for k, v in r.items() if k not in clock} for r in (alone, *both))
    assert two == [one, one] and one["samples"] == count


@pytest.mark.full
def test_real_processes_give_what_one_does(photos, trained, tmp_path):
    """Of a trained network, the bank being the training images: the record, to the last digit."""
    config, network = trained
    cfg = small_config(photos)
    for section in cfg["dataloader"].values():
        section["loader"] = {"num_workers": 0}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(cfg))
    override = "evaluate.evaluator={name: Neighbours, k: 9}"
    arguments = ["-c", path, "--weights", network, "-o", override, "--json"]
    process = start_processes(2, tmp_path / "logs", "eval", *arguments, tmp_path / "two.json")
    code, out, err = run_here("eval", *arguments, tmp_path / "one.json")
    assert code == 0 and "kNN Top-1" in out and "over 13 images" in out, err
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    for record in (one, two):
        del record["seconds"], record["images_per_second"]
    assert one == two and one["bank"] == 60 and one["k"] == 9


def test_the_bank_is_the_training_images_unless_the_config_has_another(photos, trained, tmp_path):
    config, network = trained
    output = tmp_path / "result.json"
    arguments = ["-c", config, "--weights", network, "--json", output]
    choose = ("-o", "evaluate.evaluator.name=Neighbours")
    code, out, err = run_here("eval", *arguments, *choose)
    assert code == 0, err
    default = json.loads(output.read_text())
    assert default["bank"] == 60 and default["k"] == 20
    section = f"dataloader.bank={{dataset: {{name: ImageFolder, dataroot: {photos / 'test'}"
    view = "transforms: [{name: ResizeCenterCrop, size: 16}]"
    normal = "batch_transforms: [{name: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}]"
    bank = f"{section}, {view}}}, {normal}, sampler: {{batch_size: 4}}}}"
    code, out, err = run_here("eval", *arguments, *choose, "-o", bank)
    assert code == 0, err
    assert json.loads(output.read_text())["bank"] == 11


def test_training_follows_it(photos, tmp_path):
    """Best by kNN, bank and all; a test split at the end."""
    cfg = small_config(photos, epochs=2, evaluate={"evaluator": {"name": "Neighbours", "k": 3}})
    for section in cfg["dataloader"].values():
        section["loader"]["num_workers"] = 0
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(cfg))
    train(get_config(path, [f"output_dir={tmp_path / 'run'}"]))
    rows = [r for r in records(tmp_path / "run") if "split" in r]
    assert [(r["split"], r["samples"], r["bank"]) for r in rows] == [
        ("val", 13, 60),
        ("val", 13, 60),
        ("test", 11, 60),
    ]
    best = max(rows[:2], key=lambda r: r["knn_top1"])  # the first of equals
    with WeightFile(tmp_path / "run" / "checkpoints" / "best.safetensors") as file:
        assert file.metadata["progress"]["best"]["step"] == best["step"]
