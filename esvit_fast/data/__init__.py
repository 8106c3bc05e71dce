"""Bytes to tensors: sources, decoding, multi-crop, augmentation, and the order of samples."""

from .batch import Batch, TooManyCorrupt
from .decode import CorruptImage, decode_image
from .loading.device_decode import check_device_decode
from .loading.loader import CorruptionLog, Loader, make_loader, steps_per_epoch
from .loading.prefetch import prefetch
from .loading.workers import SharedMemoryFull, WorkerDied, interruptible
from .sources.account import warning_of
from .sources.encoded import Source, SourceError
from .sources.fingerprint import Fingerprint, changes, fingerprint
from .sources.opened import Opened
from .sources.opening import open_source, open_splits, open_test, register_source
from .sources.place import absolute
from .views.augment import Augmenter, denormalize, normalize
from .views.draws import SLOTS, uniforms
from .views.multicrop import MultiCrop, crop_boxes, eval_image, eval_transform

__all__ = [
    "SLOTS",
    "Augmenter",
    "Batch",
    "CorruptImage",
    "CorruptionLog",
    "Fingerprint",
    "Loader",
    "MultiCrop",
    "Opened",
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
    "register_source",
    "steps_per_epoch",
    "uniforms",
    "warning_of",
]
