"""Models: found by name or path, fetched into the cache, opened without running anything that is inside them.

A model is a safetensors file whose metadata hold one key, ``i2i``: the network's settings as JSON. No other kind of
file is opened, and nothing falls back to pickle. Checkpoints of training are torch's own files, and read as data only.

- :mod:`i2i.models.names`: which model a name, a path or an image's channels mean
- :mod:`i2i.models.files`: opening and saving model files
- :mod:`i2i.models.download`: the cache and what fills it
- :mod:`i2i.models.checkpoints`: the state of a training run

Importing it does not import torch.
"""

from i2i.models.checkpoints import load_checkpoint, model_of_checkpoint, save_checkpoint
from i2i.models.download import Progress, cache_dir, cached_path, fetch, offline
from i2i.models.files import hash_file, open_model, save_model
from i2i.models.names import default_model, find_model

__all__ = [
    "Progress",
    "cache_dir",
    "cached_path",
    "default_model",
    "fetch",
    "find_model",
    "hash_file",
    "load_checkpoint",
    "model_of_checkpoint",
    "offline",
    "open_model",
    "save_checkpoint",
    "save_model",
]
