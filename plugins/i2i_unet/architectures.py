"""The kinds of network that segment: a U-Net, or the patch classifier that it replaced. One function for each thing that the
rest of the plugin asks of a network, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor

from i2i.contracts import Footprint
from i2i.errors import ModelError
from i2i_unet import network as unet
from i2i_unet import patch
from i2i_unet.network import UNet, UNetConfig
from i2i_unet.patch import PatchConfig, PatchNet

Config: TypeAlias = UNetConfig | PatchConfig
Network: TypeAlias = UNet | PatchNet
"""Both have ``config``, and as ``head`` the layer that gives the logits."""


def config_from_mapping(values: Any) -> Config:
    """From a model file's header: ``arch`` is ``patch``, or ``unet``, as it is where nothing is said. Raises ``ModelError``."""
    if not isinstance(values, Mapping):
        raise ModelError("the model file describes no U-Net that this version knows: network must be an object")
    kind, rest = values.get("arch", "unet"), {name: value for name, value in values.items() if name != "arch"}
    if kind == "patch":
        return PatchConfig.from_mapping(rest)
    if kind == "unet":
        return UNetConfig.from_mapping(rest)
    raise ModelError(f"the model file describes a network of the kind {kind!r}; this version knows unet and patch")


def build(config: Config) -> Network:
    """The network, with fresh weights. Raises ``ValueError`` that says which value is impossible."""
    return PatchNet(config) if isinstance(config, PatchConfig) else UNet(config)


def footprint(config: Config) -> Footprint:
    """What the engine has to know of the network."""
    return patch.footprint(config) if isinstance(config, PatchConfig) else unet.footprint(config)


def forward_window(network: Network, window: Tensor) -> Tensor:
    """(N, channels, H, W) in the network's dtype -> logits as the footprint promises: of all of the window, or of its core."""
    return patch.forward_window(network, window) if isinstance(network, PatchNet) else unet.forward_window(network, window)


def folded(network: Network) -> Network:
    """The network, in evaluation mode, with each batch norm folded into the convolution before it. Changes ``network`` itself."""
    return network if isinstance(network, PatchNet) else unet.folded(network)


def traceable(config: Config) -> bool:
    """Whether one call of the network does a window, so that another backend than torch may run it: a patch classifier is
    called thousands of times, and would become a graph of as many networks."""
    return isinstance(config, UNetConfig)


def window_bytes(config: Config, itemsize: int = 4) -> int:
    """Memory that lives at once for each pixel of a window, in bytes, of a network that computes in numbers of ``itemsize``
    bytes."""
    if isinstance(config, PatchConfig):
        return patch.window_bytes(config, itemsize)
    return unet.window_bytes(config, itemsize)


def adapt(network: Network, tensors: Mapping[str, Tensor]) -> list[str]:
    """Give the network the weights of another model of the same architecture, in the network's precision, for training to go
    on from. A head of another number of classes keeps its fresh weights: returns the names of such tensors. Raises
    ``ModelError`` that names the first tensor that does not fit otherwise, and changes nothing then."""
    own = network.state_dict()
    fresh = [name for name, tensor in tensors.items() if _of_other_classes(name, tensor, own)]
    if wrong := misfit(tensors, {name: tensors[name] if name in fresh else tensor for name, tensor in own.items()}):
        raise ModelError(f"the weights to start from are of another architecture: {wrong}; train with the settings of that model")
    network.load_state_dict({name: own[name] if name in fresh else tensor for name, tensor in tensors.items()})
    return sorted(fresh)


def _of_other_classes(name: str, tensor: Tensor, own: Mapping[str, Tensor]) -> bool:
    """Whether only the number of classes differs: the first length of the head's tensors."""
    here = name.startswith("head.") and name in own and tensor.dim() == own[name].dim()
    return here and tensor.shape[1:] == own[name].shape[1:] and tensor.shape[:1] != own[name].shape[:1]


def misfit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first tensor that is missing, too many or of another shape; empty when all fit."""
    for name in sorted(tensors.keys() ^ expected.keys()):
        return f"{name} is missing" if name in expected else f"{name} is not part of it"
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            return f"{name} is {_size(tensor)}, should be {_size(expected[name])}"
    return ""


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
