"""Images of folders that fit words, or another image, by a network that embeds both."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl.datasets import section_loader
from passl.datasets.images.decoding import decode_image
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.loading.sampler import EvaluationBatches
from passl.datasets.sources.paths import ImagePaths, find_images
from passl.deployment.features import embedded, most_similar
from passl.deployment.kept_embeddings import KeptEmbeddings
from passl.deployment.predictor import prediction_loader
from passl.modeling.architectures import Architecture
from passl.tokenization import without_padding
from passl.utils.arrays import add_arrays
from passl.utils.config import Config, plain
from passl.utils.errors import PasslError, shown
from passl.utils.logging import logger
from passl.utils.version import __version__

_SAVED_EVERY = 300.0  # seconds; more is not lost where the machine goes down


@dataclasses.dataclass
class Answers:
    """The images that fit a query best.

    Attributes:
        words: that were looked for; None where an image was.
        like: the path of that image.
        places: of the images in the gallery, the best first.
        similarities: the cosine of each one's embedding with the query's.
    """

    words: Optional[str]
    like: Optional[str]
    places: List[int]
    similarities: List[float]

    @property
    def title(self) -> str:
        """What was looked for, as text."""
        return self.words if self.like is None else f"like {self.like}"


class Searcher:
    """A network that embeds images and words, and how it looks at images.

    Args:
        architecture: has ``embed_images``, ``embed_texts``, ``tokenizer`` and ``context``, see
            ``CLIP``.
        model: its config.
        section: of the dataloader, that says how images are looked at.
        batch_size: images at a time.

    Raises:
        PasslError: the architecture embeds no words.
    """

    def __init__(
        self, architecture: Architecture, model: Mapping[str, Any], section: Config, batch_size: int
    ):
        for name in ("embed_images", "embed_texts", "tokenizer", "context"):
            if not hasattr(architecture, name):
                raise PasslError(
                    f"{type(architecture).__name__} embeds no texts (it has no {name}), so nothing "
                    "can be found by words; a CLIP does"
                )
        architecture.eval()
        self.architecture, self._section, self._batch_size = architecture, section, batch_size
        self._transforms = section.dataset.get("transforms") or ()
        self._model = plain(model)

    def key(self) -> str:
        """Returns a digest of all that an image's embedding depends on, beside the image.

        That is every number of the network, its config, how images are looked at, and the version
        of PASSL.
        """
        view = plain(self._transforms), plain(self._section.batch_transforms)
        facts = [__version__, self._model, view]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        add_arrays(digest, self.architecture.state_dict())
        return digest.hexdigest()

    def of_words(self, queries: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of words, float32 ``[q, d]``.

        Raises:
            PasslError: words without anything in them, or embeddings that are not finite.
        """
        tokenizer, context = self.architecture.tokenizer, self.architecture.context
        rows = []
        for words in queries:
            if not tokenizer.encode(words):
                raise PasslError(f"the query {words!r} has no words in it")
            ids, cut = tokenizer([words], context)
            if cut:
                logger.warning(
                    "%s: is longer than the network reads (%d ids with start and end): its end "
                    "does not count", shown(words), context,
                )  # fmt: skip
            ids = paddle.to_tensor(without_padding(ids, tokenizer.end))
            with paddle.no_grad():
                row = self.architecture.embed_texts(ids).astype("float32").numpy()
            if not np.isfinite(row).all():
                raise PasslError(
                    f"the embedding of {words!r} is not finite (NaN or infinity), so there is no "
                    "answer; take other weights"
                )
            rows.append(row)
        return np.concatenate(rows)

    def of_images(self, paths: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of image files, float32 ``[q, d]``.

        Raises:
            PasslError: one cannot be read, or its embedding is not finite.
        """
        dataset = self._dataset(ImagePaths, paths)
        loader = section_loader(
            self._section, dataset, EvaluationBatches(len(paths), self._batch_size), num_workers=0
        )
        embed = self.architecture.embed_images
        parts = embedded(self.architecture, loader, embed, "embeddings")
        return np.concatenate([rows for _, rows, _ in parts])

    def gallery(self, folders: Sequence[str]) -> Gallery:
        """Returns the images of folders, and those below them, with their embeddings.

        Embeddings that are known from an earlier time are taken from ``KeptEmbeddings``; the others
        are computed, and kept for the next time. That holds for those that are there when this is
        interrupted, too.

        Raises:
            PasslError: a folder that is not there or without images, not one image that can be
                read, embeddings that are not finite.
        """
        key, kept = self.key(), []
        for folder in _apart(folders):
            names = [os.path.relpath(path, folder) for path in find_images([folder])]
            kept.append(KeptEmbeddings(folder, names, key))
        todo = [(store, index) for store in kept for index in np.flatnonzero(~store.known).tolist()]
        total = sum(len(store.names) for store in kept)
        started = time.perf_counter()
        try:
            read = self._embed(kept, todo, none_will_do=len(todo) < total)
        finally:
            for store in kept:
                store.save()
        places = [f"{store.path}" for store in kept if store.path is not None]
        logger.info(
            "%d images: %d known from before, %d embedded in %.1f s%s",
            total, total - len(todo), read, time.perf_counter() - started,
            f"; kept in {', '.join(places)}" if places and read else "",
        )  # fmt: skip
        return Gallery(
            [store.place(i) for store in kept for i in np.flatnonzero(store.known).tolist()],
            np.concatenate([store.rows[store.known] for store in kept if store.known.any()]),
        )

    def _embed(
        self, kept: List[KeptEmbeddings], todo: List[Tuple[KeptEmbeddings, int]], none_will_do: bool
    ) -> int:
        """Computes the embeddings of images, and returns of how many that could be read."""
        if not todo:
            return 0
        dataset = self._dataset(_Digested, [store.place(index) for store, index in todo])
        loader = prediction_loader(dataset, self._section, self._batch_size)
        embed = self.architecture.embed_images
        read, saved = 0, time.monotonic()
        for places, rows, batch in embedded(
            self.architecture, loader, embed, "embeddings", none_will_do
        ):
            for place, row, digest in zip(places, rows, batch["digest"].numpy()):
                store, index = todo[place]
                store.put(index, digest, row)
            read += len(places)
            if time.monotonic() - saved > _SAVED_EVERY:
                for store in kept:
                    store.save()
                saved = time.monotonic()
        return read

    def _dataset(self, kind: type, paths: Sequence[str]) -> ImagePaths:
        dataset = kind(paths, self._transforms)
        dataset.max_pixels = self._section.loader.max_pixels
        return dataset


@dataclasses.dataclass
class Gallery:
    """Images that can be read.

    Attributes:
        paths: of them.
        rows: their embeddings, float32 ``[n, d]``.
    """

    paths: List[str]
    rows: np.ndarray

    def search(
        self, searcher: Searcher, queries: Sequence[str], like: Sequence[str], count: int
    ) -> List[Answers]:
        """Returns the best images for each query, words first.

        Args:
            searcher: embeds the queries; the one that has embedded the images.
            queries: words.
            like: paths of images. Where one is in the gallery, it is no answer to itself.
            count: of answers; fewer where there are no more images.

        Raises:
            PasslError: see ``Searcher``.
        """
        parts, own = [], np.full(len(queries) + len(like), -1)
        if queries:
            parts.append(searcher.of_words(queries))
        if like:
            parts.append(searcher.of_images(like))
            same = _where([os.path.realpath(path) for path in like], self.paths)
            own[len(queries) :] = same
        count = min(count, len(self.paths))
        places, similarities = most_similar(self.rows, np.concatenate(parts), count, own)
        found = []
        names: List[Dict[str, Optional[str]]] = [
            *({"words": words, "like": None} for words in queries),
            *({"words": None, "like": path} for path in like),
        ]
        for name, chosen, cosines in zip(names, places.tolist(), similarities.tolist()):
            kept = [(p, c) for p, c in zip(chosen, cosines) if c != -np.inf]
            found.append(Answers(**name, places=[p for p, _ in kept],
                                 similarities=[c for _, c in kept]))  # fmt: skip
        return found


class _Digested(ImagePaths):
    """Images whose samples have the ``digest`` of the very bytes that were decoded."""

    _digest = b""

    def read(self, index: int) -> RgbImage:
        data = self.read_bytes(index)
        self._digest = hashlib.sha256(data).digest()
        return decode_image(data, self.paths[index], self.max_pixels)

    def untransformed(self, index: int, image: RgbImage) -> Dict[str, Any]:
        # Of the image that was read last: each process reads one after the other.
        sample = super().untransformed(index, image)
        return {**sample, "digest": np.frombuffer(self._digest, np.uint8)}


def _apart(folders: Sequence[str]) -> List[str]:
    """Returns folders without those that are, or are below, another one of them.

    Raises:
        PasslError: one is a file.
    """
    kept: Dict[str, str] = {}
    for folder in folders:
        if os.path.isfile(folder):
            raise PasslError(
                f"{shown(folder)}: is a file; images are searched in folders, and --like takes one "
                "that others are to be like"
            )
        kept.setdefault(os.path.realpath(folder), folder)
    return [
        folder
        for real, folder in kept.items()
        if not any(real != other and _is_below(real, other) for other in kept)
    ]


def _is_below(path: str, folder: str) -> bool:
    with contextlib.suppress(ValueError):
        return os.path.commonpath([path, folder]) == folder
    return False


def _where(wanted: Sequence[str], paths: Sequence[str]) -> List[int]:
    """Returns the place of each real path among paths; -1 where it is none of them."""
    names = {os.path.basename(path) for path in wanted}
    real = {os.path.realpath(p): i for i, p in enumerate(paths) if os.path.basename(p) in names}
    return [real.get(path, -1) for path in wanted]
