"""The report page: its numbers against a count by hand, and nothing that it needs elsewhere."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import paddle
import pytest
import yaml
from helpers import run_here, small_config
from PIL import Image

from passl.datasets import build_dataset
from passl.evaluation.classification import Classification
from passl.evaluation.report import Answers, write_report
from passl.utils.errors import PasslError

RESULT = {"top1": 50.0, "top5": 100.0, "loss": 1.5}


class Page(HTMLParser):
    """Headings with the tables below them, and the pictures."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.pictures, self.references, self._heading = {}, [], [], ""
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.references += [given[key] for key in ("src", "href") if key in given]
        if tag == "img":
            self.pictures.append(given["src"])
        if tag in ("h1", "h2", "td", "th"):
            self._cell = ""
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("h1", "h2"):
            self._heading = self._cell
        if tag in ("td", "th"):
            self.tables[self._heading][-1].append(self._cell)
        if tag in ("h1", "h2", "td", "th"):
            self._cell = None


def answers_of(logits, labels, size=4):
    answers = Answers()
    for begin in range(0, len(labels), size):
        part = slice(begin, begin + size)
        answers.add(
            {"logits": paddle.to_tensor(logits[part].astype("float32"))},
            {"label": paddle.to_tensor(labels[part])},
        )
    return answers


def synthetic(classes, length):
    cfg = {"name": "Synthetic", "num_classes": classes, "length": length, "pictures": length,
           "height": 30, "width": 40}  # fmt: skip
    return build_dataset(cfg)


def page_of(classes, length, folder, names=None):
    rng = np.random.default_rng(0)
    dataset = synthetic(classes, length)
    logits = rng.normal(0, 2, (length, classes))
    logits[np.arange(length), dataset.labels] += 2
    names = names or [f"kind {i}" for i in range(classes)]
    result = {**RESULT, "samples": length}
    path = write_report(
        folder,
        answers_of(logits, dataset.labels),
        dataset,
        names,
        Classification(),
        result,
        {"config": "x & y"},
    )
    text = path.read_text(encoding="utf-8")
    return Page(text), text, logits, dataset.labels


def test_the_numbers_are_those_of_a_count_by_hand(tmp_path):
    names = ["apple", "<b>kiwi</b>", "pear", "plum"]
    page, text, logits, labels = page_of(4, 60, tmp_path / "deep" / "report", names)
    predicted = logits.argmax(1)
    wrong = predicted != labels
    assert 10 < wrong.sum() < 50
    assert page.tables["Evaluation"][1] == ["50.00 %", "100.00 %", "1.5000", "60"]
    assert "<b>kiwi" not in text and "x &amp; y" in text

    rows = page.tables["Confusion matrix"]
    assert rows[0][1:] == names
    for label, row in enumerate(rows[1:]):
        counts = [int(cell or 0) for cell in row[1:]]
        expected = [int(((labels == label) & (predicted == p)).sum()) for p in range(4)]
        assert row[0] == names[label] and counts == expected

    found = {row[0]: row[1:] for row in page.tables["Accuracy of each class, the lowest first"][1:]}
    accuracies = []
    for label, name in enumerate(names):
        mine = labels == label
        accuracy = 100 * (predicted[mine] == label).mean()
        precision = 100 * (labels[predicted == label] == label).mean()
        assert found[name] == [
            str(mine.sum()), f"{accuracy:.1f} %", str((predicted == label).sum()),
            f"{precision:.1f} %",
        ]  # fmt: skip
    accuracies = [float(row[1].split()[0]) for row in found.values()]
    assert accuracies == sorted(accuracies)

    first = page.tables["Classes that are taken for one another"][1]
    most = max(
        ((labels == a) & (predicted == b)).sum() for a in range(4) for b in range(4) if a != b
    )
    assert int(first[2]) == most

    # The files of the mistakes, the surest first.
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (exponentials / exponentials.sum(1, keepdims=True)).max(1)
    order = [i for i in np.argsort(-confidence, kind="stable") if wrong[i]][:48]
    listed = re.findall(r"<li>synthetic picture (\d+)</li>", text)
    assert [int(place) for place in listed] == order


def test_it_is_one_file_also_for_many_classes(tmp_path):
    page, text, _, _ = page_of(40, 120, tmp_path)
    assert page.references and all(r.startswith("data:image/") for r in page.references)
    assert not re.search(r"https?://|<script|<link", text)
    assert len(page.pictures) == 2, "the mistakes, and the matrix as a picture"
    for picture in page.pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
            assert image.width > 300 and len(image.convert("RGB").getcolors(10**7)) > 50


def test_where_nothing_is_wrong_it_says_so(tmp_path):
    dataset = synthetic(3, 6)
    logits = 9.0 * np.eye(3)[dataset.labels]
    names = ["a", "b", "c"]
    result = {**RESULT, "samples": 6}
    path = write_report(
        tmp_path, answers_of(logits, dataset.labels), dataset, names, Classification(), result, {}
    )
    assert path.read_text().count("There are none.") == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(PasslError, match="cannot be written"):
        write_report(
            tmp_path / "file",
            answers_of(logits, dataset.labels),
            dataset,
            names,
            Classification(),
            result,
            {},
        )


def test_the_command_writes_it(photos, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(photos, epochs=1)))
    code, _, err = run_here("train", "-c", config, "--output-dir", tmp_path / "run")
    assert code == 0, err
    code, out, err = run_here(
        "eval", "-c", config, "--output-dir", tmp_path / "run", "--report", tmp_path / "report"
    )
    assert code == 0 and "open it in a browser" in out, err
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    top1, top5, loss, images = page.tables["Evaluation"][1]
    assert f"Top-1 {top1}" in out and f"loss {loss}" in out and images == "13"
    rows = page.tables["Confusion matrix"]
    assert rows[0][1:] == ["apple", "kiwi", "pear"]
    counts = [[int(cell or 0) for cell in row[1:]] for row in rows[1:]]
    right = sum(counts[i][i] for i in range(3))
    assert sum(map(sum, counts)) == 13 and f"{100 * right / 13:.2f} %" == top1
