"""The registries of datasets, transforms of one sample and transforms of a batch."""

from passl.utils.registry import Registry

DATASETS = Registry("dataset")
TRANSFORMS = Registry("transform")
BATCH_TRANSFORMS = Registry("batch transform")
