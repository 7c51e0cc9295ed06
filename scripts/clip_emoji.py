#!/usr/bin/env python3
"""Does CLIP learn to tell drawings by their names? Trains it on emoji, beside open_clip.

For each seed it trains by configs/clip/clip_emoji.yaml and measures how often the right name is
among the first 1, 5, 10 of 118 for a picture, and the right picture for a name, in each of two
drawing sets; what is drawn in them was in no training pair. Beside it stand chance, a search by
pixels without any learning, and, with --reference, open_clip from the same initial weights on the
same batches. What is finished is not made again; what was interrupted goes on.

usage: python scripts/clip_emoji.py [--output DIR] [--seeds 0 1 2] [--epochs N] [--threads N]
       [--reference PYTHON]
PYTHON: an interpreter with torch and open_clip.

It needs data/emoji (scripts/fetch_emoji.sh), and takes about half an hour on one core.
"""

import argparse
import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONFIG = "configs/clip/clip_emoji.yaml"
DATA = Path("data/emoji")
SETS = ("google", "twitter")
FIRST = (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
COMPARED = 20  # steps whose losses are held against open_clip's
OURS, THEIRS = "PASSL", "open_clip"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="output/clip_emoji", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="default: those of the config")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default: 1)")
    parser.add_argument("--reference", metavar="PYTHON", help="has torch and open_clip")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    arguments.output = arguments.output.resolve()
    os.chdir(ROOT)
    results = arguments.output / "results"
    results.mkdir(parents=True, exist_ok=True)
    makers = {"pixels": lambda: pixel_baseline(DATA)}
    for seed in arguments.seeds:
        makers[f"{OURS}, seed {seed}"] = lambda seed=seed: run(arguments, seed)
        if arguments.reference:
            makers[f"{THEIRS}, seed {seed}"] = lambda seed=seed: run_open_clip(arguments, seed)
    for name, make in makers.items():
        path = results / f"{name}.json"
        if not path.exists():
            write(path, make())
    table = tell(results)
    (arguments.output / "table.md").write_text(table, encoding="utf-8")
    print(table)


def write(path, record):
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    aside.rename(path)


# ---------------------------------------------------------------- what is measured


def recalls(similarity):
    """Returns in % how often the right one is among the first 1, 5, 10; both ways.

    Not by the project's own evaluator: whole matrices in NumPy, and nothing in common. Of equally
    similar ones each is as likely to come first.

    Args:
        similarity: ``[n, n]`` of images and texts; text i is that of image i.
    """
    found = {}
    for way, rows in zip(WAYS, (similarity, similarity.T)):
        right = np.diag(rows)[:, None]
        before, equal = (rows > right).sum(1), (rows == right).sum(1)
        found[way] = [100 * float(np.clip((k - before) / equal, 0.0, 1.0).mean()) for k in FIRST]
    return found


def cosines(images, texts):
    """Returns the similarities of embeddings, ``[n, d]`` both, in float64."""
    images, texts = (np.asarray(x, np.float64) for x in (images, texts))
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    return images @ texts.T


def table_of(path):
    """Returns the file names and the captions of a table."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row["filepath"] for row in rows], [row["caption"] for row in rows]


def pixel_baseline(data):
    """Returns what one gets without learning: a picture has the captions of similar pictures.

    A picture's words are those of the five training pictures of both sets that are nearest in 16 ×
    16 pixels, weighed by how rare a word is (tf-idf), and are compared with the words of a caption.
    """
    from PIL import Image

    def pixels(files):
        rows = []
        for name in files:
            with Image.open(data / name) as image:
                rows.append(np.asarray(image.resize((16, 16), Image.Resampling.BOX)).ravel())
        return np.array(rows, np.float64)

    known_files, known_captions = table_of(data / "train.tsv")
    known = pixels(known_files)
    weigh = word_weights(known_captions)
    words = weigh(known_captions)
    found = {}
    for drawn in SETS:
        files, captions = table_of(data / f"test_{drawn}.tsv")
        rows = pixels(files)
        distance = (known**2).sum(1) - 2 * rows @ known.T
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :5]
        said, asked = words[nearest].mean(1), weigh(captions)
        said, asked = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
                       for x in (said, asked))  # fmt: skip
        # Equal numbers that are summed in another order are to stay equal.
        found[drawn] = recalls(np.round(said @ asked.T, 12))
    return found


def word_weights(captions):
    """Returns a function of captions that gives tf-idf ``[n, words]``, each row of length 1."""

    def words_of(caption):
        return re.findall(r"\w+", caption.lower())

    vocabulary = {}
    for caption in captions:
        for word in words_of(caption):
            vocabulary.setdefault(word, len(vocabulary))

    def counted(captions):
        rows = np.zeros((len(captions), len(vocabulary)))
        for row, caption in zip(rows, captions):
            for word in words_of(caption):
                if word in vocabulary:
                    row[vocabulary[word]] += 1
        return rows

    rarity = np.log((1 + len(captions)) / (1 + (counted(captions) > 0).sum(0))) + 1

    def weigh(captions):
        rows = counted(captions) * rarity
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    return weigh


# ---------------------------------------------------------------- our runs


def changes(arguments, seed):
    """Returns what is changed in the config."""
    found = [f"seed={seed}", "log_config.interval=1"]
    return found if arguments.epochs is None else [*found, f"epochs={arguments.epochs}"]


def run(arguments, seed):
    """Trains by the config; returns the losses and the recalls."""
    from passl.utils.run_folder import LATEST, RECORDS, checkpoint_folder
    from passl.weights import load_weights

    folder = arguments.output / f"seed {seed}"
    options = [part for change in changes(arguments, seed) for part in ("-o", change)]
    command = [sys.executable, "tools/train.py", "-c", CONFIG, "--output-dir", str(folder)]
    subprocess.run([*command, *options, "--resume", "auto"], check=True)
    lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if "split" not in record]
    network, cfg = built(arguments, seed)
    load_weights(network, checkpoint_folder(folder) / LATEST)
    network.eval()
    found = {drawn: recalls(cosines(*embedded(network, cfg, drawn))) for drawn in SETS}
    return {
        **found,
        "losses": [record["loss"] for record in records],
        "scale": records[-1]["scale"],
        "parameters": sum(int(np.prod(p.shape)) for p in network.parameters()),
    }


def built(arguments, seed):
    """Returns the network as a run begins with it, and the config."""
    import passl  # noqa: F401 - before Paddle

    # isort: split
    import paddle

    from passl.modeling.architectures import build_architecture
    from passl.utils.config import get_config

    cfg = get_config(CONFIG, changes(arguments, seed))
    paddle.seed(cfg.seed)
    return build_architecture(cfg.model), cfg


def embedded(network, cfg, drawn):
    """Returns the embeddings of the test pictures of a drawing set, and of their captions."""
    import paddle

    images, texts, normalize = test_pairs(network, cfg, drawn)
    batch = normalize({"image": paddle.to_tensor(images)})
    with paddle.no_grad():
        image = network.embed_images(batch["image"])
        text = network.embed_texts(paddle.to_tensor(texts))
    return image.numpy(), text.numpy()


def test_pairs(network, cfg, drawn):
    """Returns the pixels of the test pictures, uint8 ``[n, H, W, 3]``, and the ids of the captions.

    Returns:
        also what normalises the pixels.
    """
    from passl.datasets import BATCH_TRANSFORMS, build_dataset

    section = cfg.dataloader.test
    dataset = build_dataset({**section.dataset, "list_file": f"test_{drawn}.tsv"})
    images = np.stack([dataset[i]["image"] for i in range(len(dataset))])
    captions = [dataset.captions(i)[0] for i in range(len(dataset))]
    texts, _ = network.tokenizer(captions, network.context)
    (normalize,) = section.batch_transforms
    return images, texts, BATCH_TRANSFORMS.build(normalize)


# ---------------------------------------------------------------- the same in open_clip


def run_open_clip(arguments, seed):
    """Gives open_clip what a run of ours begins with and sees; returns losses and recalls."""
    given = arguments.output / f"given to open_clip, seed {seed}"
    export(arguments, seed, given)
    out = given / "out.npz"
    script = ROOT / "tests" / "reference" / "open_clip_emoji.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [arguments.reference, str(script), str(given), str(out)], check=True, env=environment
    )
    with np.load(out) as arrays:
        found = dict(arrays)
    in_float64 = losses_in_float64(arguments, seed, given)
    record, begin = {}, 0
    embeddings = found["image_embedding"], found["text_embedding"]
    count = len(embeddings[0]) // len(SETS)
    for drawn in SETS:
        part = slice(begin, begin + count)
        record[drawn] = recalls(cosines(*(rows[part] for rows in embeddings)))
        begin += count
    shutil.rmtree(given)  # hundreds of megabytes
    return {
        **record,
        **{key: found[key].tolist() for key in ("losses", "reversed", "in_float64")},
        "ours_in_float64": in_float64,
        "scale": float(found["scales"][-1]),
        "parameters": int(found["parameters"]),
    }


def export(arguments, seed, target):
    """Writes the initial weights by open_clip's names, all batches, the test pairs, the recipe."""
    from passl.datasets import Loader, TrainingBatches, build_dataset
    from passl.solver import build_schedule

    network, cfg = built(arguments, seed)
    target.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    np.savez(target / "weights.npz", **open_clip_state(state))
    pairs = [test_pairs(network, cfg, drawn)[:2] for drawn in SETS]
    images, texts = (np.concatenate(arrays) for arrays in zip(*pairs))
    np.savez(target / "test.npz", images=images, texts=texts)

    section = cfg.dataloader.train
    dataset = build_dataset(section.dataset)
    size = section.sampler.batch_size
    per_epoch = len(dataset) // size
    steps = cfg.epochs * per_epoch
    batches = TrainingBatches(len(dataset), size, size, cfg.seed, 0, steps)
    files = None
    for i, batch in enumerate(Loader(dataset, batches)):  # without the batch transforms
        arrays = {"images": batch["image"].numpy(), "texts": batch["text"].numpy().astype(np.int32)}
        if files is None:
            files = {
                key: np.lib.format.open_memmap(
                    target / f"{key}.npy", "w+", array.dtype, (steps, *array.shape)
                )
                for key, array in arrays.items()
            }
        for key, array in arrays.items():
            files[key][i] = array
    for file in files.values():
        file.flush()
    schedule = build_schedule(cfg.lr_scheduler, steps, per_epoch, size)
    (normalize,) = section.batch_transforms
    recipe = {
        **network_of(cfg.model),
        **{key: cfg.optimizer[key] for key in ("beta1", "beta2", "epsilon", "weight_decay")},
        **{key: list(normalize[key]) for key in ("mean", "std")},
        "rates": [schedule(step) for step in range(steps)],
        "threads": arguments.threads,
        "compared": COMPARED,
    }
    (target / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")


def losses_in_float64(arguments, seed, given):
    """Returns the losses of our first steps, computed in float64, on the batches of an export."""
    import paddle

    from passl.engine.precision import Precision
    from passl.engine.step import trial_step
    from passl.solver import build_optimizer

    network, cfg = built(arguments, seed)
    network.to(dtype="float64")
    recipe = json.loads((given / "recipe.json").read_text(encoding="utf-8"))
    mean, std = np.array(recipe["mean"]), np.array(recipe["std"])
    images, texts = (np.load(given / f"{key}.npy", mmap_mode="r") for key in ("images", "texts"))
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")  # of the optimizer's rate
    try:
        optimizer = build_optimizer(cfg.optimizer, network)
        step = trial_step(cfg, network, optimizer, Precision(None, "cpu"), images.shape[1], 1)
        losses = []
        for i, rate in enumerate(recipe["rates"][:COMPARED]):
            pixels = ((images[i] / 255 - mean) / std).transpose(0, 3, 1, 2)
            batch = {"image": pixels, "text": texts[i].astype(np.int64)}
            batch = {key: paddle.to_tensor(array) for key, array in batch.items()}
            losses.append(float(step(i, iter([batch]), rate).losses[0]))
    finally:
        paddle.set_default_dtype(before)
    return losses


def network_of(model):
    """Returns the arguments of open_clip's network for those of ours."""
    image, text = model.architecture, model.text
    return {
        "embed_dim": model.embed_dim,
        "quick_gelu": bool(text.quick_gelu),
        "vision_cfg": {
            "layers": list(image.blocks), "width": image.width, "image_size": image.img_size,
        },
        "text_cfg": {
            "context_length": text.context, "width": text.embed_dim, "heads": text.num_heads,
            "layers": text.num_blocks,
        },
    }  # fmt: skip


# Ours to open_clip's names. Not by the project's own tables of names: it is they that are tested.
NAMES = [
    (r"^backbone\.stem\.(\d)\.conv\.", lambda m: f"visual.conv{int(m[1]) + 1}."),
    (r"^backbone\.stem\.(\d)\.norm\.", lambda m: f"visual.bn{int(m[1]) + 1}."),
    (r"^backbone\.stages\.(\d)\.", lambda m: f"visual.layer{int(m[1]) + 1}."),
    (r"\.layers\.(\d)\.conv\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layers\.(\d)\.norm\.", lambda m: f".bn{int(m[1]) + 1}."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"^backbone\.pool\.pos_embed$", "visual.attnpool.positional_embedding"),
    (r"^backbone\.pool\.proj\.", "visual.attnpool.c_proj."),
    (r"^backbone\.pool\.([qkv])\.", r"visual.attnpool.\1_proj."),
    (r"^text\.token_embed\.", "token_embedding."),
    (r"^text\.pos_embed$", "positional_embedding"),
    (r"^text\.norm\.", "ln_final."),
    (r"^text\.blocks\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
]
# Matrices that torch keeps as [in, out], or that map nothing.
BARE = ("positional_embedding", "token_embedding.weight", "text_projection")


def open_clip_state(state):
    """Returns a state of ours, arrays by name, as open_clip's: other names, matrices turned."""
    found = {}
    for name, array in state.items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        if name == "visual.attnpool.positional_embedding":
            array = array.reshape(array.shape[-2:])
        elif array.ndim == 2 and name not in BARE:
            array = array.T
        found[name] = np.ascontiguousarray(array).reshape(array.shape)
    return found


# ---------------------------------------------------------------- the table


def tell(results):
    """Returns all that is there as a Markdown table, and what it says in lines below.

    Behind ± stands a standard error: of one run that of 118 test pictures (binomial), of the means
    over seeds that of the runs.
    """
    records = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
    }
    heads = [f"{drawn}, {way.replace('_', ' ')}" for drawn in SETS for way in WAYS]
    lines = [f"| R@1 / 5 / 10, % | {' | '.join(heads)} | loss |", "|---" * (len(heads) + 2) + "|"]

    def cells(record):
        return [np.array(record[drawn][way]) for drawn in SETS for way in WAYS]

    def add(label, values, loss="", form="{:.1f}"):
        shown = [" / ".join(form.format(v) for v in value) for value in values]
        lines.append(f"| {' | '.join([label, *shown, loss])} |")

    count = 118
    add("chance", [100 * np.array(FIRST) / count] * len(heads))
    add("nearest pixels, no learning", cells(records["pixels"]))
    groups = {}
    for who in (OURS, THEIRS):
        for name, record in records.items():
            if name.startswith(f"{who}, seed "):
                groups.setdefault(who, {})[int(name.rpartition(" ")[2])] = record
        for seed, record in sorted(groups.get(who, {}).items()):
            add(f"{who}, seed {seed}", cells(record), f"{last_loss(record):.3f}")
        several = list(groups.get(who, {}).values())
        if len(several) > 1:
            mean = np.mean([cells(record) for record in several], axis=0)
            loss = np.mean([last_loss(record) for record in several])
            add(f"**{who}, mean of {len(several)}**", mean, f"{loss:.3f}")
    return "\n".join([*lines, "", *findings(groups, count)]) + "\n"


def last_loss(record):
    return float(np.mean(record["losses"][-COMPARED:]))


def findings(groups, count):
    """Returns lines on whether ours is open_clip's, and whether it is better than chance."""
    lines = []
    ours, theirs = (groups.get(who, {}) for who in (OURS, THEIRS))
    for seed in sorted(set(ours) & set(theirs)):
        here, there = (np.array(g[seed]["losses"][:COMPARED]) for g in (ours, theirs))
        record = theirs[seed]
        apart = [
            np.abs(np.array(one) / np.array(other) - 1)
            for one, other in (
                (record["ours_in_float64"], record["in_float64"]),
                (here, there),
                (record["reversed"], there),
            )
        ]
        double, single, itself = (f"{a[0]:.1e} and at most {a.max():.1e}" for a in apart)
        lines.append(
            f"- Seed {seed}, the first loss and the first {len(here)}: ours and open_clip's differ "
            f"by {double} of their size in float64, by {single} in float32; open_clip differs from "
            f"itself in float32, with the pairs of each batch the other way round, by {itself}."
        )
    for drawn in SETS:
        for k, first in enumerate(FIRST):
            means = [
                np.mean([[r[drawn][way][k] for way in WAYS] for r in group.values()])
                for group in (ours, theirs)
                if group
            ]
            if not means:
                continue
            # Of one run: the pictures are the same in all of them.
            error = math.sqrt(means[0] * (100 - means[0]) / count)
            chance = 100 * first / count
            spread = math.sqrt(chance * (100 - chance) / count)
            line = (
                f"- {drawn}, R@{first}, mean of both ways: {means[0]:.1f} ± {error:.1f}, "
                f"{(means[0] - chance) / spread:.1f} standard errors above chance"
            )
            if len(means) > 1:
                line += (
                    f"; open_clip {means[1]:.1f}, "
                    f"{abs(means[0] - means[1]) / error:.1f} standard errors apart"
                )
            lines.append(line + ".")
    return lines


if __name__ == "__main__":
    main()
