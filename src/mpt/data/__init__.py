"""Images: whole data sets in memory, augmented a batch at a time."""

from mpt.data.images import ImageData, Images
from mpt.data.loader import Batch, Loader
from mpt.data.sources import NAMES, load

__all__ = ["NAMES", "Batch", "ImageData", "Images", "Loader", "load"]
