"""The ways to train the proposals and the detector (Ren et al. 2017, section 3.2).

- ``approximate-joint``: one network, losses added, proposals taken as fixed.
- ``non-approximate-joint``: the same, with the gradient of the detector's losses with respect to the proposals.
- ``alternating``: the proposals; a detector on them, from the backbone's first weights; the proposals again, from the detector's
  backbone; the detector again, from theirs. The two end with a backbone each.
- ``four-step``: the same two first steps; then the proposals' own layers on the detector's backbone, which stays as it is from
  here on; then the detector's own layers. The two end with one backbone.

After each step but the first the network is a detector that can be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.network import MaskRCNN, build

Weights = Mapping[str, Tensor]
_DETECTORS, _PROPOSALS = "backbone", "proposal_backbone"
_FIRST = "first"
"""The backbone's weights at the start of the scheme."""


@dataclass(frozen=True)
class Step:
    """``learns``: of rpn and heads, what gives losses. ``trained``: the parts whose weights change. ``detector``, ``proposals``:
    which weights the backbones start from: ``first``, or those that the detector (``backbone``) or the proposals
    (``proposal_backbone``) have so far; without ``proposals`` they have no backbone of their own. ``joined``: the gradient flows
    into the proposals."""

    learns: tuple[str, ...]
    trained: tuple[str, ...]
    detector: str = _DETECTORS
    proposals: str = ""
    joined: bool = False


_JOINT = Step(("rpn", "heads"), ("backbone", "rpn", "roi_heads"))
_APART = (
    Step(("rpn",), ("backbone", "rpn")),
    Step(("heads",), ("backbone", "roi_heads"), detector=_FIRST, proposals=_DETECTORS),
)
SCHEMES: Mapping[str, tuple[Step, ...]] = {
    "approximate-joint": (_JOINT,),
    "non-approximate-joint": (replace(_JOINT, joined=True),),
    "alternating": (
        *_APART,
        Step(("rpn",), ("proposal_backbone", "rpn"), proposals=_DETECTORS),
        Step(("heads",), ("backbone", "roi_heads"), detector=_PROPOSALS, proposals=_PROPOSALS),
    ),
    "four-step": (*_APART, Step(("rpn",), ("rpn",)), Step(("heads",), ("roi_heads",))),
}


def begin(step: Step, config: MaskRCNNConfig, first: Weights, last: Weights) -> MaskRCNN:
    """The network at the start of a step. ``first``: weights at the start of the scheme, ``last``: at the end of the step
    before."""
    network = build(replace(config, shared=not step.proposals))
    weights = {name: value for name, value in last.items() if name.split(".")[0] not in (_DETECTORS, _PROPOSALS)}
    weights |= _backbone(_DETECTORS, step.detector, first, last)
    if step.proposals:
        weights |= _backbone(_PROPOSALS, step.proposals, first, last)
    network.load_state_dict(weights)
    return freeze(network, step)


def _backbone(name: str, source: str, first: Weights, last: Weights) -> dict[str, Tensor]:
    """The weights of ``source``, under the name of the backbone that starts from them."""
    held, prefix = (first, _DETECTORS + ".") if source == _FIRST else (last, source + ".")
    return {f"{name}.{one.removeprefix(prefix)}": value for one, value in held.items() if one.startswith(prefix)}


def freeze(network: MaskRCNN, step: Step) -> MaskRCNN:
    """Set what the step trains. What it does not keeps its weights and its batch statistics."""
    network.learns, network.rpn.joined = step.learns, step.joined
    network.fixed = tuple(name for name, _ in network.named_children() if name not in step.trained)
    for name, part in network.named_children():
        part.requires_grad_(name in step.trained)
    return network
