"""The best of a training's evaluations so far, and how long ago it was."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Best:
    """
    The best score of a training's evaluations.

    Attributes:
        score: in percent; None before the first one.
        iterations: that the training had had then.
        evaluated: that it had had at the last evaluation.
        num_worse: evaluations since that were not better.
    """

    score: float | None = None
    iterations: int = 0
    evaluated: int = 0
    num_worse: int = 0

    def take(self, score: float, iterations: int) -> bool:
        """Take a score into account, once; whether it is the best so far."""
        if iterations == self.evaluated:
            return False
        self.evaluated = iterations
        if self.score is not None and score <= self.score:
            self.num_worse += 1
            return False
        self.score, self.iterations, self.num_worse = score, iterations, 0
        return True
