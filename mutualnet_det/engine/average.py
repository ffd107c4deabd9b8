"""A moving average of the weights, which generalises better than the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..compat import foreach_lerp_


class MovingAverage:
    """
    The exponential moving average of a network's parameters (Polyak & Juditsky, 1992).

    Args:
        network: whose parameters are averaged, from their values now.
        decay: per update; 0.999 averages over about the last 1000.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self._values = [parameter.detach().clone() for parameter in network.parameters()]
        self._trained: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average."""
        foreach_lerp_(self._values, list(self._network.parameters()), 1 - self._decay)

    @contextmanager
    def in_force(self, normalise: Callable[[], None]) -> Iterator[None]:
        """
        Give the network the averaged parameters; what it was before is restored on exit.

        Args:
            normalise: recomputes its running statistics, which are those of other weights.
        """
        before = {key: value.clone() for key, value in self._network.state_dict().items()}
        self._trained = before
        with torch.no_grad():
            for parameter, value in zip(self._network.parameters(), self._values, strict=True):
                parameter.copy_(value)
        try:
            normalise()
            yield
        finally:
            self._trained = None
            self._network.load_state_dict(before)

    def trained_weights(self) -> dict[str, Tensor]:
        """Get the network's state as training left it, also while the average is in force."""
        return self._network.state_dict() if self._trained is None else self._trained

    def state_dict(self) -> dict[str, Tensor]:
        """Get the average, by name of the parameter."""
        names = (name for name, _ in self._network.named_parameters())
        return dict(zip(names, self._values, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the average over from :meth:`state_dict`."""
        for (name, _), value in zip(self._network.named_parameters(), self._values, strict=True):
            value.copy_(state[name])
