"""Models: found by name or path, fetched into the cache, opened without running anything that is inside them.

A model is a safetensors file whose metadata hold one key, ``i2i``: the network's settings as JSON. A file of weights alone, as
safetensors or as PyTorch's own state dict, is a model where a task knows the network by the tensors' names. PyTorch's files,
and so the checkpoints of training, are read as data only: nothing that can run a program is loaded.

- :mod:`i2i.models.names`: which model a name, a path or an image's channels mean
- :mod:`i2i.models.files`: opening and saving model files
- :mod:`i2i.models.state_dicts`: weight files of PyTorch
- :mod:`i2i.models.download`: the cache and what fills it
- :mod:`i2i.models.checkpoints`: the state of a training run

Importing it does not import torch.
"""

from i2i.models.checkpoints import load_checkpoint, model_of_checkpoint, save_checkpoint
from i2i.models.download import Progress, cache_dir, cached_path, fetch, offline
from i2i.models.files import hash_file, open_model, save_model
from i2i.models.names import default_model, find_model, find_part

__all__ = [
    "Progress",
    "cache_dir",
    "cached_path",
    "default_model",
    "fetch",
    "find_model",
    "find_part",
    "hash_file",
    "load_checkpoint",
    "model_of_checkpoint",
    "offline",
    "open_model",
    "save_checkpoint",
    "save_model",
]
