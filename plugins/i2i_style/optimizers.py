"""Minimisers of a function of one picture, driven one evaluation at a time, whose state can be saved and restored.

They work in place, on flat views: beside the picture they hold what :func:`vectors` says, the gradient included, and no
temporaries of a picture's size. Pictures are in 0 .. 1, which the default rates are for; nothing is cut off there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from i2i.contracts import Array
from i2i.errors import UsageError

Evaluate = Callable[[Tensor], tuple[float, Tensor]]
"""The loss at a picture, and its gradient: a tensor of its own, which the optimiser may keep or overwrite."""

_CHUNK = 2**20
_FIRST = 0.01
"""Root mean square of L-BFGS's first step, in units of the picture."""
_WORSE = 1.5
"""A loss above the best one times this is too bad to go on from."""
_HALVINGS = 3
_LEAST_CURVATURE = 1e-6
"""Pairs with y's below this share of |y| |s| are skipped."""


class Optimizer(Protocol):
    """One that goes on from where it was left: ``restore(state, x)`` of what ``state()`` gave, and the next steps are the same,
    bit for bit, on the same machine with the same number of threads."""

    def step(self, x: Tensor, evaluate: Evaluate) -> float:
        """One evaluation at ``x``, (1, 3, H, W) float32 and contiguous, which is then changed in place. Returns the loss at the
        point that was evaluated; the best so far for one that is not finite, where there is a way back from it."""
        ...

    def state(self) -> dict[str, Array]:
        """Arrays, most of them views of what the next step changes: to be written at once, or copied."""
        ...

    def restore(self, state: dict[str, Array], like: Tensor) -> None:
        """Take over a saved state; its arrays are taken out of ``state`` one by one, so that memory does not hold them twice.
        ``like``: the picture, for its shape and device."""
        ...


def make_optimizer(name: str, rate: float, history: int) -> Optimizer:
    """``lbfgs``, ``adam`` or ``gd``; ``rate`` 0: its own default; ``history``: pairs that L-BFGS keeps. Raises ``UsageError``."""
    if name == "lbfgs":
        return Lbfgs(rate or 1.0, history)
    if name == "adam":
        return Adam(rate or 0.03)
    if name == "gd":
        return Descent(rate or 0.02)
    raise UsageError(f"--optimizer {name}: there is none of that name; take lbfgs, adam or gd")


def vectors(name: str, history: int) -> int:
    """Vectors of a picture's size (float32) that an optimiser holds at its peak, the gradient that it is given among them."""
    return {"lbfgs": 2 * history + 2, "adam": 3, "gd": 1}[name]


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    yield from zip(*(torch.split(tensor, _CHUNK) for tensor in tensors), strict=True)


def _dot(a: Tensor, b: Tensor) -> float:
    """The scalar product of flat tensors: of parts in their own dtype, whose sums are added up exactly."""
    return math.fsum(float(torch.dot(part, other)) for part, other in _chunks(a, b))


def _rms(flat: Tensor) -> float:
    return math.sqrt(_dot(flat, flat) / flat.numel())


def _flat(x: Tensor) -> Tensor:
    return x.detach().reshape(-1)


def _given(array: Array, like: Tensor) -> Tensor:
    """A copy in torch's own memory: where an array begins in memory can change the rounding of sums."""
    return torch.empty(like.numel(), dtype=like.dtype, device=like.device).copy_(torch.from_numpy(np.array(array, ndmin=1)))


class Lbfgs:
    """L-BFGS (Nocedal and Wright, "Numerical Optimization", 2006, algorithms 7.4 and 7.5) with steps of length ``rate``.

    It departs from the book in these: there is no line search, so that a step costs one evaluation, as in all programs for style
    transfer; the first step goes down the gradient, its root mean square 0.01; pairs with next to no curvature are skipped. In
    place of the line search: where the loss is not finite, or above 1.5 times the best so far, the next evaluation is half-way
    back to the last good point; after three halvings in a row the history is dropped, and a first step taken, 16 times shorter
    than the one before.
    """

    def __init__(self, rate: float, history: int) -> None:
        self._rate, self._history = rate, max(1, history)
        self._pairs: list[tuple[Tensor, Tensor, float]] = []  # s, y, y's; oldest first
        self._step: Tensor | None = None  # from the last good point to where x is now
        self._gradient: Tensor | None = None  # at the last good point
        self._best = math.inf  # the lowest loss so far
        self._first = _FIRST
        self._halvings = 0

    def step(self, x: Tensor, evaluate: Evaluate) -> float:
        """See :class:`Optimizer`."""
        loss, given = evaluate(x)
        gradient = _flat(given)
        del given
        square = _dot(gradient, gradient)
        finite = math.isfinite(loss) and math.isfinite(square)
        if self._step is not None and not (finite and loss <= self._best + (_WORSE - 1) * abs(self._best)):
            del gradient
            self._back(_flat(x))
            return loss if finite else self._best
        if not finite or square == 0:
            return loss
        self._remember(gradient)
        self._best, self._gradient, self._halvings = min(loss, self._best), gradient, 0
        self._go(_flat(x))
        return loss

    def _remember(self, gradient: Tensor) -> None:
        """The pair of the last step: the last gradient's memory becomes y."""
        if self._step is None or self._gradient is None:
            return
        s, y = self._step, torch.sub(gradient, self._gradient, out=self._gradient)
        self._step = self._gradient = None
        curvature = _dot(y, s)
        if curvature > _LEAST_CURVATURE * math.sqrt(_dot(y, y) * _dot(s, s)):
            self._pairs.append((s, y, curvature))

    def _go(self, x: Tensor) -> None:
        """Take the next step from a good point."""
        assert self._gradient is not None
        if self._pairs:
            step = self._direction(self._gradient).mul_(self._rate)
            self._first = _FIRST
        else:
            step = torch.neg(self._gradient).mul_(self._first * min(1.0, self._rate) / _rms(self._gradient))
        x.add_(step)
        self._step = step
        del self._pairs[: max(0, len(self._pairs) - self._history + 1)]  # room for the pair that this step will give

    def _direction(self, gradient: Tensor) -> Tensor:
        """Algorithm 7.4, begun with -gradient: -H gradient, H_0 = y's / y'y of the last pair."""
        direction = torch.neg(gradient)
        shares = []
        for s, y, curvature in reversed(self._pairs):
            share = _dot(s, direction) / curvature
            direction.add_(y, alpha=-share)
            shares.append(share)
        _, y, curvature = self._pairs[-1]
        direction.mul_(curvature / _dot(y, y))
        for (s, y, curvature), share in zip(self._pairs, reversed(shares), strict=True):
            direction.add_(s, alpha=share - _dot(y, direction) / curvature)
        return direction

    def _back(self, x: Tensor) -> None:
        """Half-way back to the last good point, or all the way and on from there with nothing remembered."""
        assert self._step is not None
        if self._halvings < _HALVINGS:
            self._halvings += 1
            self._step.mul_(0.5)
            x.sub_(self._step)
            return
        x.sub_(self._step)
        self._step = None
        self._pairs.clear()
        self._first /= 2 ** (1 + _HALVINGS)
        self._go(x)

    def state(self) -> dict[str, Array]:
        """See :class:`Optimizer`."""
        numbers = [self._best, self._first, self._halvings, *(curvature for _, _, curvature in self._pairs)]
        found: dict[str, Array] = {"numbers": np.array(numbers, np.float64)}
        for name, tensor in (("last_step", self._step), ("last_gradient", self._gradient)):
            if tensor is not None:
                found[name] = tensor.cpu().numpy()
        for k, (s, y, _) in enumerate(self._pairs):
            found |= {f"s{k}": s.cpu().numpy(), f"y{k}": y.cpu().numpy()}
        return found

    def restore(self, state: dict[str, Array], like: Tensor) -> None:
        """See :class:`Optimizer`."""
        best, first, halvings, *curvatures = state.pop("numbers").tolist()
        self._best, self._first, self._halvings = best, first, int(halvings)
        self._step = _given(state.pop("last_step"), like) if "last_step" in state else None
        self._gradient = _given(state.pop("last_gradient"), like) if "last_gradient" in state else None
        self._pairs = [
            (_given(state.pop(f"s{k}"), like), _given(state.pop(f"y{k}"), like), curvature)
            for k, curvature in enumerate(curvatures)
        ]


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1. Its epsilon is smaller than
    theirs: the gradients of a large picture are near 1e-8 for a pixel."""

    def __init__(self, rate: float, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-15) -> None:
        self._rate, self._betas, self._epsilon = rate, betas, epsilon
        self._moments: tuple[Tensor, Tensor] | None = None
        self._steps = 0

    def step(self, x: Tensor, evaluate: Evaluate) -> float:
        """See :class:`Optimizer`."""
        loss, given = evaluate(x)
        gradient = _flat(given)
        if self._moments is None:
            self._moments = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self._steps += 1
        (first, second), (beta, gamma) = self._moments, self._betas
        first.mul_(beta).add_(gradient, alpha=1 - beta)
        second.mul_(gamma).addcmul_(gradient, gradient, value=1 - gamma)
        deviation = torch.sqrt(second, out=gradient).div_(math.sqrt(1 - gamma**self._steps)).add_(self._epsilon)
        _flat(x).addcdiv_(first, deviation, value=-self._rate / (1 - beta**self._steps))
        return loss

    def state(self) -> dict[str, Array]:
        """See :class:`Optimizer`."""
        found: dict[str, Array] = {"steps": np.array(self._steps)}
        if self._moments is not None:
            found |= {name: tensor.cpu().numpy() for name, tensor in zip(("first", "second"), self._moments, strict=True)}
        return found

    def restore(self, state: dict[str, Array], like: Tensor) -> None:
        """See :class:`Optimizer`."""
        self._steps = int(state.pop("steps"))
        self._moments = (_given(state.pop("first"), like), _given(state.pop("second"), like)) if "first" in state else None


class Descent:
    """Plain gradient descent with a fixed rate. The gradient's scale depends on the weights of the losses, so the rate is
    relative to the first one: the first step's root mean square is ``rate``, and each later one is its gradient times the same
    number."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._scale = 0.0  # root mean square of the first gradient

    def step(self, x: Tensor, evaluate: Evaluate) -> float:
        """See :class:`Optimizer`."""
        loss, given = evaluate(x)
        self._scale = self._scale or _rms(_flat(given))
        if self._scale:
            x.add_(given, alpha=-self._rate / self._scale)
        return loss

    def state(self) -> dict[str, Array]:
        """See :class:`Optimizer`."""
        return {"scale": np.array(self._scale)}

    def restore(self, state: dict[str, Array], like: Tensor) -> None:
        """See :class:`Optimizer`."""
        self._scale = float(state.pop("scale"))
