"""Recall against CLIP_benchmark's numbers and NumPy, with ties, alone and over processes."""

import itertools
import json
import math
import shutil

import numpy as np
import paddle
import pytest
import yaml
from clip import TEXT, TOWERS, clip
from helpers import ROOT, run_here, small_config, start_processes
from thread_processes import Thread, gather_rows, in_two
from told_pairs import CLOCK, Told, formula, made_up_pairs, pairs_loader, with_ties

from passl.datasets import DATASETS
from passl.datasets.sources.paths import ImagePaths, find_images
from passl.evaluation import build_evaluator, gathering, retrieval
from passl.evaluation.retrieval import Retrieval, recalls
from passl.modeling.architectures import ARCHITECTURES, Architecture
from passl.tokenization import CLIPTokenizer, without_padding
from passl.utils.errors import PasslError
from passl.weights import write_tensor_file

WAYS = ("image_to_text", "text_to_image")


def measure(images, captions, texts, batch=8, evaluator=None, **network):
    evaluator = evaluator or Retrieval()
    record = evaluator.evaluate(Told(images, texts, **network), pairs_loader(captions, batch))
    return {key: value for key, value in record.items() if key not in CLOCK}


def unit(rows):
    rows = np.asarray(rows, np.float32).astype(np.float64)  # what a network gives
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_hand(images, captions, texts):
    """The recalls in percent, one query after the other: the text of every caption is a column."""
    flat = sum(captions, [])
    owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    scores = np.round(unit(images) @ unit([texts[text] for text in flat]).T, 9)
    found = {}
    for way, matrix, right in (
        ("image_to_text", scores, owners[None, :] == np.arange(len(images))[:, None]),
        ("text_to_image", scores.T, owners[:, None] == np.arange(len(images))[None, :]),
    ):
        for k in (1, 5, 10):
            hits = []
            for row, own in zip(matrix, right):
                best = row[own].max()
                left = k - int((row > best).sum())
                level, mine = int((row == best).sum()), int(((row == best) & own).sum())
                missed = float(left <= 0)
                if 0 < left <= level:
                    missed = math.comb(level - mine, left) / math.comb(level, left)
                hits.append(1.0 - missed)
            found[f"{way}_r{k}"] = 100.0 * float(np.mean(hits))
    return found


@pytest.mark.smoke
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_numbers_of_clip_benchmark(batch):
    """clip-benchmark 1.6.2, evaluate() of metrics/zeroshot_retrieval.py: its share of each."""
    record = measure(*made_up_pairs(), batch)
    published = {
        "image_to_text": (7 / 60, 30 / 60, 39 / 60),
        "text_to_image": (28 / 150, 70 / 150, 98 / 150),
    }
    for way, shares in published.items():
        for k, share in zip((1, 5, 10), shares):
            assert record[f"{way}_r{k}"] == pytest.approx(100 * share, abs=1e-9), (way, k)
    assert record["mean_r1"] == pytest.approx(100 * (7 / 60 + 28 / 150) / 2, abs=1e-9)
    told = ("samples", "captions", "captions_per_image", "prompt", "captions_cut")
    assert [record[key] for key in told] == [60, 150, None, None, 0]
    assert record["image_to_text_ties"] == record["text_to_image_ties"] == 0
    assert "without_answer" not in record
    assert Retrieval().main == "mean_r1" == next(iter(record))


@pytest.mark.smoke
@pytest.mark.parametrize("cells, candidates", [(2**22, 8192), (60, 7), (1, 1)])
def test_agrees_with_numpy_where_answers_tie(monkeypatch, cells, candidates):
    """However many are compared at a time."""
    monkeypatch.setattr(retrieval, "_CELLS", cells)
    monkeypatch.setattr(retrieval, "_CANDIDATES", candidates)
    images, captions, texts = with_ties()
    record = measure(images, captions, texts)
    for key, value in by_hand(images, captions, texts).items():
        assert record[key] == pytest.approx(value, abs=1e-9), key
    assert min(record[f"{way}_ties"] for way in WAYS) > 10
    assert record["captions"] == sum(map(len, captions)) > len(set(sum(captions, [])))


def test_what_is_held_at_a_time_is_bounded(monkeypatch):
    """Never all similarities; a query with all its answers at least."""
    sizes, similarities = [], retrieval._similarities

    def watched(*given):
        found = similarities(*given)
        sizes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(retrieval, "_similarities", watched)
    monkeypatch.setattr(retrieval, "_CELLS", 300)
    pairs = made_up_pairs()
    measure(*pairs)
    assert sizes == [(2, 150)] * 30 + [(5, 60)] * 30
    monkeypatch.setattr(retrieval, "_CELLS", 70)
    sizes.clear()
    measure(*pairs)
    assert sizes == [(1, 150)] * 60 + [(1, 60)] * 150


def test_recall_is_the_mean_over_all_orders_of_what_ties():
    """By going through the orders, for up to six answers that are as similar as the right one."""
    for ahead, wrong, right in itertools.product(range(3), range(4), range(1, 3)):
        orders = list(itertools.permutations([False] * wrong + [True] * right))
        for k in range(1, 8):
            first = [any(([False] * ahead + list(order))[:k]) for order in orders]
            (found,) = recalls(np.array([ahead]), np.array([wrong]), np.array([right]), k)
            assert found == pytest.approx(np.mean(first), abs=1e-12), (ahead, wrong, right, k)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_a_network_for_which_all_is_alike_has_the_recall_of_chance(value):
    _, captions, texts = made_up_pairs(images=20)
    record = measure(np.full((20, 3), value), captions, dict.fromkeys(texts, np.full(3, value)))
    total = len(texts)
    for k in (1, 5, 10):
        chance = [1 - math.comb(total - len(c), k) / math.comb(total, k) for c in captions]
        assert record[f"image_to_text_r{k}"] == pytest.approx(100 * np.mean(chance))
        assert record[f"text_to_image_r{k}"] == pytest.approx(100 * k / 20)
    assert (record["image_to_text_ties"], record["text_to_image_ties"]) == (20, total)


def test_a_caption_of_two_images_counts_as_half():
    """A perfect network but for that; figures that are certain stay whole."""
    captions = [["a dog"], ["a dog"], ["a cat"], ["a fish"]]
    images = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    texts = {"a dog": [1.0, 0, 0], "a cat": [0, 1, 0], "a fish": [0, 0, 1]}
    record = measure(images, captions, texts)
    assert record["image_to_text_r1"] == record["text_to_image_r1"] == 75.0
    assert record["image_to_text_r5"] == record["text_to_image_r5"] == 100.0
    assert record["image_to_text_ties"] == record["text_to_image_ties"] == 2


def test_equal_texts_tie_whatever_stands_around_them(monkeypatch):
    """They are embedded once: 1e-7 between two batches would order them by chance."""
    captions = [["same"], ["other one"], ["same"], ["third, which is long"]]
    texts = {"same": [1.0, 0.2], "other one": [0.1, 1.0], "third, which is long": [-1.0, 0.3]}
    network = Told([[1.0, 0], [0, 1.0], [1.0, 0], [-1.0, 0]], texts)
    record = Retrieval().evaluate(network, pairs_loader(captions, 1))
    assert len(network.seen) == 3
    assert record["image_to_text_ties"] == 2 and record["image_to_text_r1"] == 75.0


@pytest.mark.smoke
@pytest.mark.parametrize("tower", ["ViT", "ResNet"])
def test_a_clip_is_measured_as_its_embeddings_say(tower):
    """By its embeddings of whole texts, of 77 ids; an image is one colour here, by its number."""
    network = clip(tower)
    _, captions, _ = made_up_pairs(images=24)
    captions[3] = ["a very long one " * 30]
    loader = pairs_loader(captions, 7)
    side = {"ViT": 32, "ResNet": 64}[tower]
    pixels = formula(24, 3 * side * side, 5).reshape(24, 3, side, side).astype("float32")
    place = iter(range(0, 24, 7))

    def images(batch, rng):
        begin = next(place)
        return {**batch, "image": paddle.to_tensor(pixels[begin : begin + 7])}

    loader.batch_transforms = [images]
    record = Retrieval().evaluate(network, loader)
    assert network.training
    network.eval()
    flat = sum(captions, [])
    with paddle.no_grad():
        ids, cut = network.tokenizer(flat)
        texts = dict(zip(flat, network.embed_texts(paddle.to_tensor(ids)).numpy()))
        embeddings = network.embed_images(paddle.to_tensor(pixels)).numpy()
    for key, value in by_hand(embeddings, captions, texts).items():
        assert record[key] == pytest.approx(value, abs=1e-9), key
    assert record["captions_cut"] == cut == 1


def test_what_differs_by_rounding_alone_ties():
    """Vectors that are multiples of one another have the same cosine with everything."""
    rng = np.random.default_rng(0)
    one, two = rng.integers(-9, 10, (2, 301)).astype(float)
    names = [f"text {i}" for i in range(12)]
    texts = {name: (i // 2 + 1) * [one, two][i % 2] for i, name in enumerate(names)}
    record = measure([3 * one, 7 * two] * 6, [[name] for name in names], texts, batch=5)
    for way in WAYS:
        assert record[f"{way}_r1"] == pytest.approx(100 / 6)
        assert record[f"{way}_r5"] == pytest.approx(100 * 5 / 6)
        assert record[f"{way}_ties"] == 12


def test_captions_per_image_takes_the_first():
    images, captions, texts = made_up_pairs()
    for count in (1, 2, 9):
        record = measure(images, captions, texts, evaluator=Retrieval(captions_per_image=count))
        kept = [own[:count] for own in captions]
        for key, value in by_hand(images, kept, texts).items():
            assert record[key] == pytest.approx(value, abs=1e-9), key
        assert record["captions_per_image"] == count
        assert record["captions"] == sum(map(len, kept))


def test_texts_are_cut_to_the_longest_beside_them_and_exclamation_marks_stay():
    """Id 0 is both filling and the exclamation mark; the shortest texts come first."""
    captions = [["!€"], ["z"], ["!§ !€"], ["one two three four five six seven"]]
    texts = {own[0]: row for own, row in zip(captions, np.eye(4))}
    network = Told(np.eye(4), texts)
    record = Retrieval().evaluate(network, pairs_loader(captions, 2))
    assert record["mean_r1"] == 100.0 and network.seen == [(2, 4), (2, 9)]
    ids, _ = CLIPTokenizer()(["!€", "!§"])
    kept = without_padding(ids, CLIPTokenizer.end)
    start, end = CLIPTokenizer.start, CLIPTokenizer.end
    assert kept.tolist() == [[start, 0, 6309, end, 0], [start, 0, 126, 356, end]]


def test_captions_that_are_too_long_are_counted():
    captions = [["a photo of a very long street"], ["a cat"], ["a photo of a very long road"]]
    texts = {"a photo of a very long street": [1, 0, 0], "a cat": [0, 1, 0]}
    texts["a photo of a very long road"] = [1, 0, 0]
    for batch in (1, 3):
        assert measure(np.eye(3), captions, texts, batch, context=8)["captions_cut"] == 2


def test_a_prompt_is_put_around_each_caption():
    captions = [["dog"], ["cat {}"]]
    texts = {"a photo of dog.": [1, 0], "a photo of cat {}.": [0, 1]}
    record = measure(np.eye(2), captions, texts, evaluator=Retrieval(prompt="a photo of {}."))
    assert record["mean_r1"] == 100.0 and record["prompt"] == "a photo of {}."


def test_embeddings_that_are_not_finite_find_nothing_and_are_told():
    images, captions, texts = made_up_pairs(images=12)
    lost = captions[3][1]
    bad = {**texts, lost: [np.nan] * 12, captions[0][0]: [np.inf] + [0.0] * 11}
    images[5] = np.nan
    evaluator = Retrieval()
    record = measure(images, captions, bad, evaluator=evaluator)
    # Image 0 has lost its only caption, and image 5 itself with all of its own.
    assert record["without_answer"] == {"images": 1, "captions": 2}
    flat = sum(captions, [])
    owners = np.repeat(np.arange(12), [len(own) for own in captions])
    scores = unit(np.nan_to_num(images) + 1e-30) @ unit([texts[text] for text in flat]).T
    scores[:, [flat.index(lost), 0]] = scores[5] = -np.inf
    hits = [
        np.isfinite(scores[i, owners == i].max())
        and (scores[i] > scores[i, owners == i].max()).sum() < 1
        for i in range(12)
    ]
    assert record["image_to_text_r1"] == pytest.approx(100 * np.mean(hits))
    hits = [np.isfinite(s[o]) and (s > s[o]).sum() < 5 for s, o in zip(scores.T, owners)]
    assert record["text_to_image_r5"] == pytest.approx(100 * np.mean(hits))
    assert evaluator.not_finite(record) == []
    assert "of 1 of 12 images and 2 of 30 captions are not finite" in evaluator.problem(record)
    several = measure(np.eye(3), [["lost"], ["lost"], ["kept"]],
                      {"lost": [np.nan] * 3, "kept": [0, 0, 1]})  # fmt: skip
    assert several["without_answer"] == {"images": 0, "captions": 2}
    assert several["mean_r1"] == pytest.approx(100 / 3)
    whole = measure(np.full((12, 12), np.nan), captions, texts)
    assert [whole[key] for key in Retrieval.figures] == [0.0] * 7
    assert evaluator.problem(measure(*made_up_pairs())) is None


def test_what_stands_on_the_console():
    evaluator = Retrieval()
    record = measure(*made_up_pairs())
    said = evaluator.describe(record)
    assert said.startswith("mean R@1 15.17 %  image-to-text R@1 11.67 %  image-to-text R@5 50.00 %")
    assert said.endswith("text-to-image R@10 65.33 %")
    assert evaluator.headline(record) == "mean R@1 15.17 %"


class Blind(Architecture):
    tokenizer, context = CLIPTokenizer(), 77

    def forward(self, batch):
        return {"features": batch["image"]}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"captions_per_image": 0}, "captions_per_image is at least 1, or null for all, not 0"),
        ({"prompt": "a photo"}, "prompt holds the place of the caption, {}, once"),
        ({"prompt": "{} and {}"}, "once: 'a photo of {}'; not '{} and {}'"),
    ],
)
def test_settings_that_cannot_be(change, said):
    with pytest.raises(PasslError, match=said.replace("{", r"\{").replace("}", r"\}")):
        build_evaluator({"name": "Retrieval", **change}, Blind())


def test_what_has_no_captions_or_takes_no_texts():
    _, captions, texts = made_up_pairs(images=3)
    loader = pairs_loader(captions, 2)
    with pytest.raises(PasslError, match="such as CLIP; Blind has no embed_texts"):
        Retrieval().evaluate(Blind(), loader)
    Blind.embed_texts = None
    with pytest.raises(PasslError, match="returns 'image_embedding'; this one returns features"):
        Retrieval().evaluate(Blind(), loader)
    with pytest.raises(PasslError, match="a.jpg: has no captions, which the evaluator Retrieval"):
        Retrieval().check(ImagePaths(["a.jpg"]))
    captions[1] = []
    with pytest.raises(PasslError, match="has no caption, and nothing can be found by it"):
        measure(formula(3, 2, 1), captions, texts)


def by_two(monkeypatch, images, captions, texts, batch, stop=(False, False)):
    monkeypatch.setattr(gathering, "gather_rows", gather_rows)

    def run(rank):
        processes, calls = Thread(rank, 2), itertools.count(1)
        record = Retrieval().evaluate(
            Told(images, texts), pairs_loader(captions, batch, rank, 2), processes=processes,
            stop=lambda: stop[rank] and next(calls) > stop[rank],
        )  # fmt: skip
        return {key: value for key, value in record.items() if key not in CLOCK}

    return in_two(run)


@pytest.mark.parametrize("batch", [7, 500])
def test_two_processes_give_what_one_does(monkeypatch, batch):
    """To the last digit; with one batch, one of them has no images and no texts."""
    monkeypatch.setattr(retrieval, "_CELLS", 900)
    pairs = with_ties()
    alone = measure(*pairs, batch)
    assert by_two(monkeypatch, *pairs, batch) == [alone, alone]


@pytest.mark.parametrize("after", [1, 4, 7, 10])
def test_one_that_is_asked_to_stop_stops_all(monkeypatch, after):
    """Among the images, the texts, and what is compared."""
    monkeypatch.setattr(retrieval, "_CELLS", 900)
    assert by_two(monkeypatch, *with_ties(), 7, stop=(False, after)) == [{}, {}]


@pytest.mark.smoke
def test_real_processes_give_what_one_does(tmp_path):
    program = ROOT / "tests" / "distributed" / "retrieval_processes.py"
    process = start_processes(2, tmp_path / "logs", program, tmp_path)
    process.communicate(timeout=120)
    logs = [path.read_text() for path in sorted((tmp_path / "logs").glob("workerlog.*"))]
    assert process.returncode == 0, "\n".join(logs)
    alone = measure(*with_ties(), batch=7)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone


class Captioned(ImagePaths):
    """The files of a folder, each with its name for a caption."""

    def __init__(self, dataroot, transforms=()):
        super().__init__(find_images([dataroot]), transforms)
        self.labels, self._length = None, len(self.paths)

    def captions(self, index):
        return [self.paths[index].rsplit("/", 1)[1]]


class Colours(Told):
    """Embeds an image by its mean colour, a text by its length; it has one weight."""

    def __init__(self):
        super().__init__([], {})
        self.weight = self.create_parameter([3])

    def embed_images(self, images):
        return images.mean(axis=[2, 3]) + self.weight

    def embed_texts(self, ids):
        return (ids[:, :3] + ids.shape[1]).astype("float32") * self.weight


def test_eval_measures_it_by_the_architecture_s_own_choice(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES._factories, "Colours", Colours)
    monkeypatch.setitem(DATASETS._factories, "Captioned", Captioned)
    cfg = small_config(photos)
    cfg["model"] = {"name": "Colours"}
    cfg["dataloader"]["val"]["dataset"]["name"] = "Captioned"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(cfg))
    kind = {"kind": "weights"}
    write_tensor_file(tmp_path / "w.safetensors", {"weight": np.ones(3, np.float32)}, kind)
    given = ["-c", tmp_path / "x.yaml", "--weights", tmp_path / "w.safetensors"]
    code, out, err = run_here("eval", *given, "--json", tmp_path / "out.json")
    assert code == 0, err
    assert "mean R@1" in out and "over 13 images" in out
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["captions"] == 13 and record["text_to_image_r10"] <= 100.0
    assert record["image_to_text_ties"] > 0, "names of the same length"
    write_tensor_file(tmp_path / "w.safetensors", {"weight": np.full(3, 3e38, np.float32)}, kind)
    code, out, err = run_here("eval", *given)
    assert code == 2 and "captions are not finite (NaN or infinity)" in err
    code, out, err = run_here("eval", *given, "--split", "test")
    assert code == 2 and "has no captions, which the evaluator Retrieval needs" in err
    code, out, err = run_here("eval", *given, "--report", tmp_path / "r")
    assert code == 2 and "which Retrieval does not do" in err


@pytest.fixture
def folder_of_pairs(photos, tmp_path):
    """A config and weights of CLIP, whose val is 13 photographs of one or two captions each."""
    shutil.copytree(photos / "val", tmp_path / "pairs")
    texts = {}
    for i, path in enumerate(sorted((tmp_path / "pairs").rglob("*.jpg"))):
        own = [f"a photo of {'apples!' if i % 3 else '苹果'} {i // 2}", "still life"][: 1 + i % 2]
        path.with_suffix(".txt").write_text("\n".join(own), encoding="utf-8")
        texts[str(path)] = own
    network = clip("ViT")
    cfg = small_config(photos)
    cfg["model"] = {"name": "CLIP", "architecture": TOWERS["ViT"], "text": TEXT, "embed_dim": 48}
    val = cfg["dataloader"]["val"]
    val["dataset"].update(name="ImageTextFolder", dataroot=str(tmp_path / "pairs"))
    val["dataset"]["transforms"][0]["size"] = 32
    val["loader"] = {"num_workers": 0}
    (tmp_path / "clip.yaml").write_text(yaml.safe_dump(cfg), encoding="utf-8")
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_tensor_file(tmp_path / "clip.safetensors", state, {"kind": "weights"})
    given = ["-c", tmp_path / "clip.yaml", "--weights", tmp_path / "clip.safetensors", "--json"]
    return given, network, val["dataset"]["transforms"], texts


def test_eval_of_a_clip_on_a_folder_of_pairs(folder_of_pairs, tmp_path):
    given, network, transforms, texts = folder_of_pairs
    code, out, err = run_here("eval", *given, tmp_path / "one.json")
    assert code == 0 and "mean R@1" in out, err
    record = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    network.eval()
    dataset, flat = ImagePaths(list(texts), transforms), sum(texts.values(), [])
    pixels = np.stack([dataset[i]["image"] for i in range(13)]).transpose(0, 3, 1, 2)
    with paddle.no_grad():
        images = network.embed_images(paddle.to_tensor((pixels / 127.5 - 1).astype("float32")))
        rows = network.embed_texts(paddle.to_tensor(network.tokenizer(flat)[0])).numpy()
    expected = by_hand(images.numpy(), list(texts.values()), dict(zip(flat, rows)))
    for key, value in expected.items():
        assert record[key] == pytest.approx(value, abs=1e-9), key
    assert record["captions"] == 19 and record["text_to_image_ties"] == 0
    # One that has a caption of its own besides ties only where the shared one is the nearer.
    assert 0 < record["image_to_text_ties"] <= 6


@pytest.mark.full
def test_eval_in_two_real_processes(folder_of_pairs, tmp_path):
    """Of the network itself: the record of one process, to the last digit."""
    given, *_ = folder_of_pairs
    process = start_processes(2, tmp_path / "logs", "eval", *given, tmp_path / "two.json")
    code, out, err = run_here("eval", *given, tmp_path / "one.json")
    said = process.communicate(timeout=120)[0]
    assert code == process.returncode == 0, err + said
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two"))
    for record in (one, two):
        for key in CLOCK:
            del record[key]
    assert one == two
