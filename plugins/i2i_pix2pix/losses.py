"""What generator and discriminator make small (Isola et al. 2017, section 3.1).

``vanilla``: L_cGAN = E[log D(x, y)] + E[log(1 - D(x, G(x, z)))] (equation 1), of which the generator, as in practice (section
3.3), maximises log D(x, G(x, z)). ``lsgan``: squares of the distance to 1 and 0 (Mao et al. 2017). ``hinge``: Lim and Ye 2017.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def real_loss(objective: str, logits: Tensor) -> Tensor:
    """Of the discriminator, for what is real: small where its logits are large."""
    if objective == "vanilla":
        return functional.softplus(-logits).mean()
    if objective == "lsgan":
        return (logits - 1).square().mean()
    return functional.relu(1 - logits).mean()


def made_loss(objective: str, logits: Tensor) -> Tensor:
    """Of the discriminator, for what the generator made."""
    if objective == "vanilla":
        return functional.softplus(logits).mean()
    if objective == "lsgan":
        return logits.square().mean()
    return functional.relu(1 + logits).mean()


def discriminator_loss(objective: str, real: Tensor, made: Tensor) -> dict[str, Tensor]:
    """Halved, which slows it down beside the generator (section 3.3)."""
    return {"D_real": real_loss(objective, real) / 2, "D_made": made_loss(objective, made) / 2}


def generator_loss(objective: str, logits: Tensor) -> Tensor:
    """What the generator makes small so that what it made passes for real: -log D(x, G(x, z)) for ``vanilla``."""
    return -logits.mean() if objective == "hinge" else real_loss(objective, logits)


def distance(kind: str, made: Tensor, wanted: Tensor) -> Tensor:
    """``l1``: E[|y - G(x, z)|] (equation 3); ``l2``: its square."""
    difference = made - wanted
    return difference.abs().mean() if kind == "l1" else difference.square().mean()
