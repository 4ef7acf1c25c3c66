"""Images: whole data sets in memory, augmented a batch at a time. Worker processes read larger data sets."""

from mpt.data.corruptions import corruptions
from mpt.data.facts import FOLDERS
from mpt.data.images import Files, ImageData, Images
from mpt.data.listing import checksum
from mpt.data.loader import Batch, Loader
from mpt.data.sources import NAMES, load

__all__ = ["FOLDERS", "NAMES", "Batch", "Files", "ImageData", "Images", "Loader", "checksum", "corruptions", "load"]
