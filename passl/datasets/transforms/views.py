"""Several views of one image, as methods that learn without labels compare them."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from passl.datasets.dataset import image_fields
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, last_stated
from passl.utils.errors import PasslError
from passl.utils.seeding import derived_rng


@TRANSFORMS.register
class Views(Transform):
    """Makes several views of the image, each by transforms and draws of its own.

    The first view stays ``image``, the others become ``image_1``, ``image_2`` and so on. They may
    differ in size. Transforms before this one are shared by all views; those behind it see
    ``image`` alone. Fields that are no images are those of the first view.

    The first view draws as its transforms would without Views. Each other view draws from a
    generator that follows from the sample's and the number of the view, so that no view depends on
    what another draws.

    Args:
        views: the transforms of each view: a list of lists.
        count: how many views ``transforms`` makes, where all are made in the same way.
        transforms: the transforms of each of these.

    Shape:
        ``image``: RgbImage becomes ``image``, ``image_1``, …: RgbImage.

    Raises:
        PasslError: neither or both of ``views`` and ``count`` with ``transforms``; fewer than two
            views; Views within or after Views.
    """

    def __init__(
        self,
        views: Optional[Sequence[Sequence[Mapping[str, Any]]]] = None,
        count: Optional[int] = None,
        transforms: Optional[Sequence[Mapping[str, Any]]] = None,
    ):
        if (views is None) == (transforms is None) or (transforms is None) != (count is None):
            raise PasslError(
                "Views takes either 'views', the transforms of each view, or 'count' and "
                "'transforms', which make all of them"
            )
        if transforms is not None:
            views = [transforms] * count
        if len(views) < 2:
            given = "views lists" if count is None else "count is"
            raise PasslError(f"{given} at least 2 views, not {len(views)}")
        self.views: List[List[Any]] = [[TRANSFORMS.build(cfg) for cfg in view] for view in views]
        self.size = last_stated(self.views[0], Transform, "size")

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        generators = [rng, *(derived_rng(rng, v) for v in range(1, len(self.views)))]
        made = []
        for transforms, generator in zip(self.views, generators):
            view = dict(sample)  # a user's transform may change what it is given
            for transform in transforms:
                view = transform(view, generator)
            already = image_fields(view)
            if len(already) > 1:
                raise PasslError(
                    f"Views makes several images of one, but a sample has {', '.join(already)} "
                    "already; it stands once among the transforms, and not within Views"
                )
            made.append(view)
        others = {f"image_{v}": view["image"] for v, view in enumerate(made) if v}
        return {**made[0], **others}
