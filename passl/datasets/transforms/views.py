"""Several views of one image, as methods that learn without labels compare them."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np

from passl.datasets.dataset import image_fields
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, last_stated
from passl.utils.config import origin_of
from passl.utils.errors import PasslError
from passl.utils.seeding import derived_rng

# Transforms of one view, or ``{count, transforms}`` of several that are made alike.
View = Union[Sequence[Mapping[str, Any]], Mapping[str, Any]]


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
        views: the transforms of each view, a list of lists. ``{count: 6, transforms: [...]}`` in
            the place of a list stands for six views that are made in the same way, such as the
            small crops of SwAV (arXiv 2006.09882, section 3.2).
        count: how many views ``transforms`` makes, where all are made in the same way.
        transforms: the transforms of each of these.

    Shape:
        ``image``: RgbImage becomes ``image``, ``image_1``, …: RgbImage.

    Raises:
        PasslError: neither or both of ``views`` and ``count`` with ``transforms``; an entry of
            ``views`` that is no list and not ``{count, transforms}``; fewer than two views; Views
            within or after Views.
    """

    def __init__(
        self,
        views: Optional[Sequence[View]] = None,
        count: Optional[int] = None,
        transforms: Optional[Sequence[Mapping[str, Any]]] = None,
    ):
        if (views is None) == (transforms is None) or (transforms is None) != (count is None):
            raise PasslError(
                "Views takes either 'views', the transforms of each view, or 'count' and "
                "'transforms', which make all of them"
            )
        configs = one_by_one(views, count, transforms)
        if len(configs) < 2:
            given = "views lists" if count is None else "count is"
            raise PasslError(f"{given} at least 2 views, not {len(configs)}")
        self.views: List[List[Any]] = [[TRANSFORMS.build(cfg) for cfg in view] for view in configs]
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


def one_by_one(
    views: Optional[Sequence[View]],
    count: Optional[int],
    transforms: Optional[Sequence[Mapping[str, Any]]],
) -> List[Sequence[Mapping[str, Any]]]:
    """Returns the transforms of each view, of arguments of ``Views``."""
    if views is None:
        return [transforms] * count
    found: List[Sequence[Mapping[str, Any]]] = []
    for view in views:
        count, transforms = 1, view
        if isinstance(view, Mapping):
            count, transforms = view.get("count"), view.get("transforms")
            number = isinstance(count, int) and not isinstance(count, bool) and count > 0
            right = number and isinstance(transforms, (list, tuple))
            if not right or set(view) != {"count", "transforms"}:
                raise PasslError(
                    "an entry of views is a list, the transforms of one view, or {count: 6, "
                    f"transforms: […]}} for six alike, not {dict(view)!r:.80}",
                    place=origin_of(view),
                )
        found += [transforms] * count
    return found
