"""Transforms: one file, one idea. A new file here registers itself.

* Of a sample: ``transform(sample, rng) -> sample``. It changes the fields it knows (``image``, an
  RgbImage) and passes the others on; it runs in the workers.
* Of a batch: ``transform(batch, rng) -> batch``, on tensors, on the device. One that draws
  something has ``random = True``; the others are also called without ``rng``.

``base`` lists what a transform may state about itself, with the defaults of those that do not.
All randomness comes from ``rng``, a NumPy generator that belongs to the sample or to the batch.
"""

from __future__ import annotations

from passl.utils.discovery import import_modules

import_modules(__name__, __path__)
