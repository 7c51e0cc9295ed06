"""Retrieval: whether images find their captions, and captions their images, among all of a set.

Recall at k, as Karpathy and Fei-Fei measure it ("Deep Visual-Semantic Alignments for Generating
Image Descriptions", arXiv 1412.2306, section 4.1), and CLIP (arXiv 2103.00020, table 13).
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import paddle

from passl.datasets import ImageDataset, Loader
from passl.evaluation.base import Evaluation, Evaluator, Figure
from passl.evaluation.gathering import in_order, indices
from passl.evaluation.registry import EVALUATORS
from passl.modeling.layers.embeddings import unit
from passl.tokenization import without_padding
from passl.utils.errors import PasslError
from passl.utils.records import Record

_RANKS = (1, 5, 10)
_PLACE = "{}"  # of the caption in a prompt
# Similarities at a time, in float64: a query with all its candidates at least.
_CELLS = 2**22
_CANDIDATES = 8192  # that are multiplied at a time
_DECIMALS = 9  # of a similarity; what differs later is rounding


class _Captions(NamedTuple):
    """The captions of a set; equal ones are embedded, and compared, once.

    Attributes:
        texts: U different ones, the shortest first, so that those of a chunk are equally long.
        counts: how often each stands in the set, int64 ``[U]``.
        images, numbers: of each caption of the set, image by image, which image it belongs to and
            which text it is, int64 ``[P]``.
    """

    texts: List[str]
    counts: np.ndarray
    images: np.ndarray
    numbers: np.ndarray


@EVALUATORS.register
class Retrieval(Evaluator):
    """Recall at 1, 5 and 10 of images that look for a caption, and of captions for their image.

    An image finds what it looks for where *any* of its captions is among the k texts of the set
    that are most similar to it, by the cosine of the embeddings; a caption where its own image is
    among the k most similar images. In percent of the images, and of the captions. What CLIP's
    paper calls text retrieval is ``image_to_text``, image retrieval ``text_to_image``. The main
    figure is the mean of both recalls at 1, which the DataComp benchmark compares networks by
    (``mean_recall@1`` of its evaluation).

    **Ties.** Answers that are equally similar are taken to stand in random order, and what counts
    is the probability that a right one is among the first k. So a network for which all is alike
    has the recall of chance, and a caption that stands at two images of the set, which nothing can
    tell apart, counts as one half at 1. How often a wrong answer is as similar as the right one is
    recorded (``image_to_text_ties``, ``text_to_image_ties``).

    Similarities are compared as float64, to nine decimals. The figures do not depend on the number
    of processes, and all similarities are never held at a time.

    The set gives ``captions(index)``, a list of texts for each image. The architecture gives
    ``image_embedding`` of a batch of ``image``, has ``embed_texts``, a ``tokenizer`` and a
    ``context``, see ``CLIP``. Texts are as many at a time as images, and cut to the longest of
    these, after which nothing changes what a causal text tower makes of them. A record tells how
    many of the different captions were too long for the context (``captions_cut``), and
    ``without_answer`` where there are any: images and captions whose embeddings are not finite,
    which find nothing.

    Args:
        captions_per_image: the first n of each image's, for comparison with figures that were
            measured so (5 of COCO, of which some images have 6 or 7); all by default.
        prompt: what every caption is put into, at the place of ``{}`` ("a photo of {}").
    """

    figures = {
        "mean_r1": Figure("mean R@1", "{:.2f} %"),
        **{
            f"{way}_r{k}": Figure(f"{way.replace('_', '-')} R@{k}", "{:.2f} %")
            for way in ("image_to_text", "text_to_image")
            for k in _RANKS
        },
    }
    needs_labels = False

    def __init__(self, captions_per_image: Optional[int] = None, prompt: Optional[str] = None):
        if captions_per_image is not None and captions_per_image < 1:
            raise PasslError(
                f"captions_per_image is at least 1, or null for all, not {captions_per_image}"
            )
        if prompt is not None and prompt.count(_PLACE) != 1:
            raise PasslError(
                f"prompt holds the place of the caption, {_PLACE}, once: 'a photo of {_PLACE}'; "
                f"not {prompt!r}"
            )
        self.captions_per_image, self.prompt = captions_per_image, prompt

    def check(self, dataset: ImageDataset) -> None:
        super().check(dataset)
        if not hasattr(dataset, "captions"):
            raise PasslError(
                f"{dataset.where(0)}: has no captions, which the evaluator Retrieval needs of "
                "every image; take a data set of images with texts, or choose another "
                "evaluate.evaluator"
            )

    def measure(
        self, evaluation: Evaluation, loader: Loader, also: Mapping[str, Loader]
    ) -> Dict[str, Any]:
        lacking = [
            name
            for name in ("embed_texts", "tokenizer", "context")
            if not hasattr(evaluation.architecture, name)
        ]
        if lacking:
            raise PasslError(
                "the evaluator Retrieval needs an architecture for images and texts, such as CLIP; "
                f"{type(evaluation.architecture).__name__} has no {lacking[0]}"
            )
        captions = self._captions(loader.dataset)
        images = self._images(evaluation, loader)
        texts, cut = self._texts(evaluation, captions.texts, loader.batches.batch_size)
        # The images stand in rising order, and each has a caption.
        starts = np.searchsorted(captions.images, np.arange(len(images) + 1))
        found = {
            "image_to_text": _places(
                evaluation, images, np.arange(len(images)), texts, captions.counts,
                starts, captions.numbers, "its texts",
            ),
            "text_to_image": _places(
                evaluation, texts, captions.numbers, images, np.ones(len(images), np.int64),
                np.arange(len(captions.images) + 1), captions.images, "its images",
            ),
        }  # fmt: skip
        result = {
            f"{way}_r{k}": 100.0 * float(recalls(*places.T, k).mean())
            for way, places in found.items()
            for k in _RANKS
        }
        result["mean_r1"] = (result["image_to_text_r1"] + result["text_to_image_r1"]) / 2
        result["captions"] = len(captions.images)
        result["captions_per_image"] = self.captions_per_image
        result["prompt"] = self.prompt
        result["captions_cut"] = cut
        for way, places in found.items():
            result[f"{way}_ties"] = int((places[:, 1] > 0).sum())
        lost = {
            "images": int((~_finite(images)).sum()),
            "captions": int((~_finite(texts))[captions.numbers].sum()),
        }
        return {**result, "without_answer": lost} if any(lost.values()) else result

    def problem(self, record: Record) -> Optional[str]:
        if "without_answer" not in record:
            return None
        lost = record["without_answer"]
        return (
            f"the embeddings of {lost['images']} of {record['samples']} images and "
            f"{lost['captions']} of {record['captions']} captions are not finite (NaN or "
            "infinity), so they find nothing; take other weights"
        )

    def _captions(self, dataset: ImageDataset) -> _Captions:
        """Returns the captions of a set.

        Raises:
            PasslError: an image has none.
        """
        whole: List[str] = []
        images: List[int] = []
        for index in range(len(dataset)):
            own = dataset.captions(index)[: self.captions_per_image]
            if not own:
                raise PasslError(
                    f"{dataset.where(index)}: has no caption, and nothing can be found by it"
                )
            whole += own
            images += [index] * len(own)
        texts = sorted(set(whole), key=lambda text: (len(text), text))
        number = {text: i for i, text in enumerate(texts)}
        numbers = np.array([number[text] for text in whole], np.int64)
        counts = np.bincount(numbers, minlength=len(texts)).astype(np.int64)
        return _Captions(texts, counts, np.array(images, np.int64), numbers)

    def _images(self, evaluation: Evaluation, loader: Loader) -> np.ndarray:
        """Returns the embeddings of all images, in their order, ``[n, d]``."""
        parts = []
        for outputs, _ in evaluation.outputs(loader, fields=("image",)):
            if "image_embedding" not in outputs:
                raise PasslError(
                    "the evaluator Retrieval needs an architecture that returns "
                    f"'image_embedding'; this one returns {', '.join(outputs)}"
                )
            parts.append(outputs["image_embedding"].astype("float32").numpy())
        evaluation.sum([])
        return in_order(parts, indices(loader))

    def _texts(self, evaluation: Evaluation, texts: List[str], size: int) -> Tuple[np.ndarray, int]:
        """Returns the embeddings of texts ``[U, d]``, and how many of the texts were cut."""
        architecture = evaluation.architecture
        chunks = [range(b, min(b + size, len(texts))) for b in range(0, len(texts), size)]
        own = chunks[evaluation.processes.rank :: evaluation.processes.size]
        parts, cut = [], 0
        for chunk in evaluation.each(own, len, len(texts), "texts", "text"):
            whole = [texts[i] if self.prompt is None else self._put(texts[i]) for i in chunk]
            ids, too_long = architecture.tokenizer(whole, architecture.context)
            cut += too_long
            ids = paddle.to_tensor(without_padding(ids, architecture.tokenizer.end))
            parts.append(architecture.embed_texts(ids).astype("float32").numpy())
        (cut,) = evaluation.sum([cut])
        return in_order(parts, np.array([i for chunk in own for i in chunk], np.int64)), int(cut)

    def _put(self, text: str) -> str:
        before, after = self.prompt.split(_PLACE)
        return f"{before}{text}{after}"


def recalls(ahead: np.ndarray, wrong: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Returns the probability that a right answer is among the first k of each query.

    Answers that are as similar as the best right one stand in random order.

    Args:
        ahead: how many answers are more similar than that one, int64 ``[n]``.
        wrong, right: how many of those that are as similar as it are wrong, and right, itself
            included.
        k: at least 1.

    Returns:
        float64 ``[n]``: 1 - C(wrong, m) / C(wrong + right, m), where m places are left.
    """
    missed = np.ones(len(ahead))
    for place in range(k):
        # The probability that after so many wrong answers the next one is wrong, too.
        share = np.maximum(wrong - place, 0) / np.maximum(wrong + right - place, 1)
        missed *= np.where(place < k - ahead, share, 1.0)
    return 1.0 - missed


def _places(
    evaluation: Evaluation,
    queries: np.ndarray,
    rows: np.ndarray,
    candidates: np.ndarray,
    counts: np.ndarray,
    starts: np.ndarray,
    rights: np.ndarray,
    what: str,
) -> np.ndarray:
    """Returns where the best right answer of each query stands.

    Args:
        evaluation: for its processes.
        queries: embeddings.
        rows: of each query, its embedding among these, int64 ``[q]``.
        candidates: embeddings ``[c, d]``.
        counts: how often each of them is there, int64 ``[c]``.
        starts: where the right answers of each query begin, int64 ``[q + 1]``.
        rights: all right answers, int64 ``[starts[-1]]``, places among the candidates; one that is
            there several times may be the answer as often.
        what: for the progress bar.

    Returns:
        int64 ``[q, 3]``: how many answers stand before it, and how many wrong and right ones, with
        itself, beside it. A query without answer has all that are wrong before it.
    """
    block = max(1, _CELLS // len(candidates))
    blocks = [range(b, min(b + block, len(rows))) for b in range(0, len(rows), block)]
    own = blocks[evaluation.processes.rank :: evaluation.processes.size]
    weights = paddle.to_tensor(counts)
    valid, able = _finite(candidates), _finite(queries)
    parts = []
    for part in evaluation.each(own, len, len(rows), what, "query"):
        asked = rows[part.start : part.stop]
        similarity = _similarities(queries[asked], candidates, valid)
        first, last = starts[part.start], starts[part.stop]
        mine = rights[first:last]
        owner = np.repeat(np.arange(len(part)), np.diff(starts[part.start : part.stop + 1]))
        index = paddle.to_tensor(np.stack([owner, mine], axis=1))
        values = paddle.gather_nd(similarity, index).numpy()
        best = np.full(len(part), -np.inf)
        np.maximum.at(best, owner, values)
        right = np.bincount(owner, values == best[owner], len(part)).astype(np.int64)
        level = paddle.to_tensor(best).unsqueeze(1)
        ahead, beside = (
            (found.astype("int64") * weights).sum(axis=1).numpy()
            for found in (similarity > level, similarity == level)
        )
        found = np.stack([ahead, beside - right, right], axis=1)
        found[~able[asked] | np.isneginf(best)] = counts.sum(), 0, 1
        parts.append(found)
    evaluation.sum([])
    return in_order(parts, np.array([i for part in own for i in part], np.int64))


def _similarities(queries: np.ndarray, candidates: np.ndarray, valid: np.ndarray) -> paddle.Tensor:
    """Returns cosines ``[q, c]``, float64, -infinity with candidates that are not ``valid``."""
    asked, parts = _units(queries), []
    for begin in range(0, len(candidates), _CANDIDATES):
        chunk = slice(begin, begin + _CANDIDATES)
        products = paddle.round(asked @ _units(candidates[chunk]).T * 10.0**_DECIMALS)
        nothing = paddle.full_like(products, -np.inf)
        parts.append(paddle.where(paddle.to_tensor(valid[chunk]), products, nothing))
    return paddle.concat(parts, axis=1)


def _units(embeddings: np.ndarray) -> paddle.Tensor:
    return unit(paddle.to_tensor(np.where(np.isfinite(embeddings), embeddings, 0), dtype="float64"))


def _finite(embeddings: np.ndarray) -> np.ndarray:
    """Tells which rows ``[n, d]`` are numbers throughout: bool ``[n]``."""
    return np.isfinite(embeddings).all(axis=1)
