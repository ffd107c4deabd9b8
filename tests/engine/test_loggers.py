"""Loggers beside TensorBoard: by packages that stand in for them, and by MLflow where it is."""

import json
import sys
from types import SimpleNamespace

import pytest
from detectron2.engine import HookBase

from mutualnet_det.config import ConfigError, check_config, choices
from mutualnet_det.engine import loggers
from mutualnet_det.engine.hooks import STOPPED
from mutualnet_det.errors import UserError


class Wandb:
    """Stands in for the package: keeps what it is given."""

    def __init__(self):
        self.runs = []

    def init(self, **options):
        self.options = options
        id_ = options["id"] or f"wandb{len(self.runs)}"
        run = SimpleNamespace(id=id_, records=[], exit_code=None)
        run.define_metric = lambda name, step_metric: None
        run.log = run.records.append
        run.finish = lambda exit_code: setattr(run, "exit_code", exit_code)
        self.runs.append(run)
        return run

    def Settings(self, **settings):
        return settings


class Mlflow:
    """Stands in for the package, likewise; ``fails`` makes its server unreachable."""

    def __init__(self):
        self.params, self.records, self.ids, self.statuses = {}, [], [], []
        self.fails = False

    def start_run(self, run_id, run_name):
        self.ids.append(run_id)
        if run_id is None:
            self.params = {}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "mlflow0"))

    def log_params(self, params):
        assert len(params) <= 100 and not params.keys() & self.params.keys()
        self.params |= params

    def log_metrics(self, values, step):
        if self.fails:
            raise RuntimeError("no such server")
        self.records.append((step, values))

    def end_run(self, status):
        self.statuses.append(status)


@pytest.fixture
def packages(monkeypatch):
    """Both, importable."""
    fakes = SimpleNamespace(wandb=Wandb(), mlflow=Mlflow())
    for name, fake in vars(fakes).items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name)
    for variable in ("WANDB_MODE", "WANDB_DIR", "WANDB_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return fakes


BOTH = ("MUTUALNET.LOGGERS", ("wandb", "mlflow"))


def test_both_get_what_metrics_json_gets(build, packages, every_iteration, tmp_path):
    mutual = build(*BOTH)
    mutual.train()
    with (tmp_path / "metrics.json").open() as file:
        written = [json.loads(line) for line in file]
    (run,) = packages.wandb.runs
    assert run.records == written
    in_mlflow = [{**values, "iteration": step} for step, values in packages.mlflow.records]
    assert in_mlflow == written
    assert run.exit_code == 0 and packages.mlflow.statuses == ["FINISHED"]
    for config in (packages.wandb.options["config"], packages.mlflow.params):
        assert config["MUTUALNET.WIDTH_RANGE"] == list(mutual.cfg.MUTUALNET.WIDTH_RANGE)
    assert packages.wandb.options["mode"] == "offline"
    assert packages.wandb.options["dir"] == str(tmp_path)


class StopAt(HookBase):
    def __init__(self, iteration):
        self._iteration = iteration

    def after_step(self):
        if self.trainer.iter == self._iteration:
            self.trainer._hooks[-1]._ask(15, None)


def test_a_resume_goes_on_in_the_same_runs(build_resumed, packages, tmp_path):
    mutual = build_resumed(*BOTH)
    mutual.register_hooks([StopAt(1)])
    with pytest.raises(SystemExit):
        mutual.train()
    assert (tmp_path / STOPPED).is_file()
    assert packages.wandb.runs[0].exit_code == 1 and packages.mlflow.statuses == ["KILLED"]
    params = dict(packages.mlflow.params)
    build_resumed(*BOTH).train()
    first, second = packages.wandb.runs
    assert first.id == second.id and packages.mlflow.ids == [None, "mlflow0"]
    iterations = [record["iteration"] for run in (first, second) for record in run.records]
    assert iterations == [step for step, _ in packages.mlflow.records] == [0, 1, 2, 3]
    assert packages.mlflow.params == params and packages.mlflow.statuses[-1] == "FINISHED"


def test_a_training_that_begins_anew_has_runs_of_its_own(build, packages):
    build(*BOTH).train()
    build(*BOTH).train()
    assert packages.mlflow.ids == [None, None]


def test_training_goes_on_without_a_logger_that_fails(build, packages, every_iteration, caplog):
    packages.mlflow.fails = True
    build(*BOTH).train()
    told = [message for message in caplog.messages if "no such server" in message]
    assert told == ["MlflowWriter cannot write: no such server. Training goes on without it."]
    assert len(packages.wandb.runs[0].records) == 4


def test_one_that_does_not_start_ends_training_before_its_first_step(build, packages, monkeypatch):
    def fail(**options):
        raise RuntimeError("No API key configured.")

    monkeypatch.setattr(packages.wandb, "init", fail)
    mutual = build(*BOTH)
    with pytest.raises(UserError, match=r"LOGGERS: wandb cannot begin a run: No API key"):
        mutual.train()
    assert mutual.iter == 0


def test_each_that_the_key_may_name_has_a_writer():
    assert tuple(loggers.LOGGERS) == choices.LOGGERS


def test_one_that_is_not_installed_is_told(training_cfg, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    loggers.check_loggers(training_cfg)
    training_cfg.MUTUALNET.LOGGERS = ("mlflow",)
    with pytest.raises(ConfigError, match=r'\'mlflow\'.*pip install "mutualnet_det\[mlflow\]"'):
        loggers.check_loggers(training_cfg)


@pytest.mark.parametrize("value", [("comet",), ("wandb", "wandb"), "wandb", ([],)])
def test_others_are_refused(training_cfg, value):
    training_cfg.MUTUALNET.LOGGERS = value
    with pytest.raises(ConfigError, match=r"MUTUALNET.LOGGERS is .*; expected some of 'wandb'"):
        check_config(training_cfg)


def test_mlflow_itself(build_resumed, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    build_resumed("MUTUALNET.LOGGERS", ("mlflow",), "SOLVER.MAX_ITER", 2).train()
    build_resumed("SOLVER.MAX_ITER", 4).train()
    (run,) = mlflow.search_runs(output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "full/total_loss")
    assert [metric.step for metric in history] == [0, 1, 2, 3]
    assert run.info.status == "FINISHED" and run.data.params["MUTUALNET.METHOD"] == "mutual"


def test_wandb_itself(build_resumed, monkeypatch, tmp_path):
    pytest.importorskip("wandb.sdk")  # W&B's own files make a folder named wandb
    build_resumed("MUTUALNET.LOGGERS", ("wandb",)).train()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    id_ = json.loads((tmp_path / loggers.RUNS_FILE).read_text())["wandb"]
    assert b"full/total_loss" in (folder / f"run-{id_}.wandb").read_bytes()
