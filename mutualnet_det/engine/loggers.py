"""Experiment loggers beside ``metrics.json`` and TensorBoard: Weights & Biases, and MLflow."""

from __future__ import annotations

import abc
import importlib.util
import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from ..config import ConfigError, flattened
from ..files import replacing
from .periodic_evaluation import TrainedEnough

logger = logging.getLogger(__name__)

# In OUTPUT_DIR: the id of each logger's run, which a resume goes on with.
RUNS_FILE = "loggers.json"
MLFLOW_PARAMS = 100  # the most that its servers take at once


class LoggerWriter(EventWriter, abc.ABC):
    """
    A writer of a training's scalars to a run in a logger.

    Args:
        cfg: of the training.
        id: of the run to go on with; None: begin one.
        window_size: iterations under each median.

    Attributes:
        id: the logger's name for the run.
    """

    def __init__(self, cfg: CfgNode, id: str | None, window_size: int) -> None:
        self._window_size = window_size
        self._written = -1  # the last iteration
        self.id = self._begin(cfg, id)

    def write(self) -> None:
        storage = get_event_storage()
        records: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, put_in) in storage.latest_with_smoothing_hint(self._window_size).items():
            if put_in > self._written:
                records[put_in][name] = value
        for iteration, values in sorted(records.items()):
            self._log(values, iteration)
            self._written = iteration

    def close(self) -> None:
        # Called while what ends a training early, a signal too, is on its way.
        self._end(complete=sys.exc_info()[0] in (None, TrainedEnough))

    @abc.abstractmethod
    def _begin(self, cfg: CfgNode, id: str | None) -> str:
        """Begin or go on with a run; returns its id."""

    @abc.abstractmethod
    def _log(self, values: dict[str, float], iteration: int) -> None: ...

    @abc.abstractmethod
    def _end(self, *, complete: bool) -> None: ...


class WandbWriter(LoggerWriter):
    """A writer to a run in Weights & Biases, kept on disk unless ``WANDB_MODE`` says otherwise."""

    def _begin(self, cfg: CfgNode, id: str | None) -> str:
        import wandb

        self._run = wandb.init(
            id=id,
            resume="allow",
            name=os.environ.get("WANDB_NAME", Path(cfg.OUTPUT_DIR).name),
            dir=os.environ.get("WANDB_DIR", cfg.OUTPUT_DIR),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=flattened(cfg),
            settings=wandb.Settings(console="off", silent=True),
        )
        # Not W&B's own steps, which may not go back: a resume does, to its checkpoint.
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def _log(self, values: dict[str, float], iteration: int) -> None:
        self._run.log({**values, "iteration": iteration})

    def _end(self, *, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


class MlflowWriter(LoggerWriter):
    """A writer to a run in MLflow, where ``MLFLOW_TRACKING_URI`` says, or in the current folder."""

    def _begin(self, cfg: CfgNode, id: str | None) -> str:
        import mlflow

        self._mlflow = mlflow
        run = mlflow.start_run(id, run_name=Path(cfg.OUTPUT_DIR).name)
        if id is None:  # MLflow refuses to change them
            params = list(flattened(cfg).items())
            for start in range(0, len(params), MLFLOW_PARAMS):
                mlflow.log_params(dict(params[start : start + MLFLOW_PARAMS]))
        return run.info.run_id

    def _log(self, values: dict[str, float], iteration: int) -> None:
        self._mlflow.log_metrics(values, step=iteration)

    def _end(self, *, complete: bool) -> None:
        self._mlflow.end_run("FINISHED" if complete else "KILLED")


# By their names in MUTUALNET.LOGGERS, which are those of the packages.
LOGGERS: dict[str, type[LoggerWriter]] = {
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def check_loggers(cfg: CfgNode) -> None:
    """ConfigError for a logger in ``MUTUALNET.LOGGERS`` whose package is not installed."""
    for name in cfg.MUTUALNET.LOGGERS:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"MUTUALNET.LOGGERS has {name!r}, which is not installed: pip install "
                f'"mutualnet_det[{name}]", or leave it out.'
            )


def build_loggers(cfg: CfgNode, start: int, window_size: int) -> Sequence[EventWriter]:
    """
    Writers to the loggers in ``MUTUALNET.LOGGERS``; a training that goes on does so in its runs.

    Args:
        start: the iteration that training goes on with; 0: it begins.
        window_size: iterations under each median.

    Raises:
        ConfigError: for one that is not installed or does not start.
    """
    check_loggers(cfg)
    path = Path(cfg.OUTPUT_DIR) / RUNS_FILE
    goes_on = start > 0 and path.is_file()
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if goes_on else {}
    writers = []
    for name in cfg.MUTUALNET.LOGGERS:
        task = f"go on with the run {ids[name]} of {path}" if name in ids else "begin a run"
        try:
            writer = LOGGERS[name](cfg, ids.get(name), window_size)
        except Exception as error:  # of any kind that a logger has
            raise ConfigError(f"MUTUALNET.LOGGERS: {name} cannot {task}: {error}") from error
        logger.info("%s: run %s", name, writer.id)
        writers.append(writer)
        ids[name] = writer.id
        with replacing(path) as file:
            json.dump(ids, file)
    return writers
