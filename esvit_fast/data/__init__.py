"""Bytes to tensors: sources, decoding, multi-crop, augmentation, and the order of samples."""

from .account import warning_of
from .augment import Augmenter, denormalize, normalize
from .decode import CorruptImage, decode_image
from .device_decode import check_device_decode
from .draws import SLOTS, uniforms
from .encoded import Source, SourceError
from .fingerprint import Fingerprint, changes, fingerprint
from .loader import Batch, CorruptionLog, Loader, TooManyCorrupt, make_loader, steps_per_epoch
from .multicrop import MultiCrop, crop_boxes, eval_image, eval_transform
from .place import absolute
from .prefetch import prefetch
from .sources import open_source, open_splits, open_test
from .workers import SharedMemoryFull, WorkerDied, interruptible

__all__ = [
    "SLOTS",
    "Augmenter",
    "Batch",
    "CorruptImage",
    "CorruptionLog",
    "Fingerprint",
    "Loader",
    "MultiCrop",
    "SharedMemoryFull",
    "Source",
    "SourceError",
    "TooManyCorrupt",
    "WorkerDied",
    "absolute",
    "changes",
    "check_device_decode",
    "crop_boxes",
    "decode_image",
    "denormalize",
    "eval_image",
    "eval_transform",
    "fingerprint",
    "interruptible",
    "make_loader",
    "normalize",
    "open_source",
    "open_splits",
    "open_test",
    "prefetch",
    "steps_per_epoch",
    "uniforms",
    "warning_of",
]
