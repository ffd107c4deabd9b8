"""
What is to be compared: methods, seeds, operating points and schedule, read from one YAML.

A plan is checked wholly before anything runs: every training's config is built and checked.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ...config import (
    ConfigError,
    check_points,
    load_config,
    trained_widths,
)
from ...engine.trainer import check_weights
from ...errors import UserError
from ...family import Family, family, outputs
from ...slimmable import OperatingPoint
from .compute import ComputeCounter

_KEYS = {
    *("base", "output", "seeds", "options", "steps", "compute", "widths", "resolutions"),
    *("pretrain", "methods", "studies", "claims", "resamples"),
}
_PRETRAIN_KEYS = {"base", "output", "steps", "options"}
_METHOD_KEYS = {"label", "options", "networks"}
_ROLES = ("mutual", "us_net", "independent")
# What a plan gives each run itself.
_RESERVED = ("SOLVER.MAX_ITER", "SEED", "OUTPUT_DIR")


class PlanError(UserError, ValueError):
    """A plan that cannot be carried out; the message names the file and the key."""


@dataclass(frozen=True)
class Method:
    """
    One of the methods under comparison.

    Attributes:
        name: of its folder.
        label: in tables and figures.
        study: the title of the study it belongs to, "" for none.
        options: config keys and values that make it.
        networks: a width ("0.50") or an operating point ("0.50x96") for each network that is
            trained by itself; empty for one network that runs at all points.
    """

    name: str
    label: str
    study: str
    options: dict[str, Any]
    networks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Training:
    """
    One training.

    Attributes:
        base: its config file.
        folder: its OUTPUT_DIR.
        options: KEY VALUE overrides of the base config.
        cfg: what they make of it.
    """

    base: str
    folder: Path
    options: tuple[str, ...]
    cfg: CfgNode

    @property
    def steps(self) -> int:
        """Iterations."""
        return self.cfg.SOLVER.MAX_ITER

    @property
    def weights(self) -> Path:
        """What it ends with. Never those of a training that was told to end early."""
        return self.folder / "model_final.pth"


class Pretraining(Training):
    """That of the backbone which all runs start from. It is not evaluated."""

    name = title = "pretraining"
    points = ()
    gflops_per_step = 1.0  # not counted: all runs have the same of it


@dataclass(frozen=True, eq=False)
class Run(Training):
    """
    One training and its evaluation.

    Attributes:
        network: of :attr:`Method.networks`, "" where there is one for all points.
        points: to be evaluated.
        gflops_per_step: counted, see :class:`~mutualnet_det.comparison.compute.ComputeCounter`.
    """

    method: Method
    network: str
    seed: int
    points: tuple[OperatingPoint, ...]
    gflops_per_step: float

    @property
    def name(self) -> str:
        """Such as "independent 0.50x96, seed 0"."""
        return f"{' '.join(filter(None, (self.method.name, self.network)))}, seed {self.seed}"

    @property
    def title(self) -> str:
        """Such as "independent 0.50x96" or "Temperature: 2": without the seed, for readers."""
        label = " ".join(filter(None, (self.method.label, self.network)))
        return ": ".join(filter(None, (self.method.study, label)))


@dataclass(frozen=True)
class Plan:
    """
    A whole comparison.

    Attributes:
        path: of the YAML; ``content`` is what it holds.
        pretraining: of the backbone that all runs start from; None: they start from nothing, or
            from what their ``MODEL.WEIGHTS`` says.
        methods: the first is the one that the others are held against.
        points: operating points, ascending.
        runs: in the order they are begun.
        claims: the method in each role of the claims, empty if none are to be checked.
        resamples: of the bootstrap over images.
    """

    path: Path
    content: dict[str, Any]
    output: Path
    pretraining: Pretraining | None
    methods: tuple[Method, ...]
    points: tuple[OperatingPoint, ...]
    runs: tuple[Run, ...]
    claims: dict[str, str]
    resamples: int


def read_plan(path: str | Path, output: str | Path | None = None) -> Plan:
    """
    Read and check a plan.

    Args:
        output: folder of the results, in place of the plan's own.

    Raises:
        PlanError: naming the file and what is wrong in it, a method whose config cannot be used
            too.
        DatasetError: if training images cannot be listed.
    """
    return _Reader(Path(path)).plan(output)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = _read_yaml(path)
        self._check_known("", self._content, _KEYS)
        for key in ("base", "output", "seeds", "widths", "resolutions", "methods"):
            self._need(key in self._content, key, "a value")
        for key in ("base", "output"):
            self._need(isinstance(self._content[key], str), key, "a path")
        self._counter = ComputeCounter()

    def plan(self, output: str | Path | None) -> Plan:
        content = self._content
        seeds = content["seeds"]
        self._need_list("seeds", seeds, _is_index, "integers of at least 0")
        self._need_list("widths", content["widths"], _is_width, "numbers above 0")
        self._need_list("resolutions", content["resolutions"], _is_count, "integers above 0")
        resamples = content.get("resamples", 1000)
        self._need(_is_count(resamples), "resamples", "at least 1")
        points = sorted(
            OperatingPoint(float(width), resolution)
            for width in content["widths"]
            for resolution in content["resolutions"]
        )
        output = Path(output or content["output"])
        pretraining = self._pretraining()
        methods = self._methods()
        runs = self._runs(methods, seeds, points, output, pretraining)
        return Plan(
            path=self._path,
            content=content,
            output=output,
            pretraining=pretraining,
            methods=methods,
            points=tuple(points),
            runs=runs,
            claims=self._claims(methods),
            resamples=resamples,
        )

    def _pretraining(self) -> Pretraining | None:
        given = self._content.get("pretrain")
        if given is None:
            return None
        self._need(isinstance(given, dict), "pretrain", "a mapping")
        self._check_known("pretrain", given, _PRETRAIN_KEYS)
        for key in ("base", "output"):
            self._need(isinstance(given.get(key), str), f"pretrain.{key}", "a path")
        self._need(_is_count(given.get("steps")), "pretrain.steps", "at least 1")
        folder = Path(given["output"])
        own = {"SOLVER.MAX_ITER": given["steps"], "SEED": 0, "OUTPUT_DIR": str(folder)}
        options = {**self._options("pretrain.options", given.get("options")), **own}
        base = given["base"]
        cfg = self._load("pretrain", base, options)
        if family(cfg) is not Family.CLASSIFIER:
            raise PlanError(
                f"{self._path}: pretrain.base {base} trains no classification network, which is "
                "what backbones are pretrained as."
            )
        return Pretraining(base, folder, _as_arguments(options), cfg)

    # Methods -------------------------------------------------------------------------------------

    def _methods(self) -> tuple[Method, ...]:
        methods = self._group("methods", self._content["methods"], "")
        self._check_labels("methods", methods)
        studies = self._content.get("studies") or {}
        self._need(isinstance(studies, dict), "studies", "a mapping of titles to methods")
        for title, group in studies.items():
            found = self._group(f"studies.{title}", group, str(title))
            # The reference stands beside them.
            self._check_labels(f"studies.{title}", [methods[0], *found])
            methods += found
        names = [method.name for method in methods]
        for name in names:
            self._need(names.count(name) == 1, name, "a name of its own: it is given twice")
        return tuple(methods)

    def _group(self, key: str, group: Any, study: str) -> list[Method]:
        self._need(isinstance(group, dict) and group, key, "a mapping of names to methods")
        methods = []
        for name, given in group.items():
            where = f"{key}.{name}"
            name = str(name)
            self._need(name.replace("_", "").isalnum(), where, "letters, digits and _ in the name")
            given = given or {}
            self._need(isinstance(given, dict), where, "a mapping")
            self._check_known(where, given, _METHOD_KEYS)
            networks = given.get("networks") or []
            self._need(isinstance(networks, list), f"{where}.networks", "a list")
            methods.append(
                Method(
                    name=name,
                    label=name if given.get("label") is None else str(given["label"]),
                    study=study,
                    options=self._options(f"{where}.options", given.get("options")),
                    networks=tuple(_network_name(where, self._path, n) for n in networks),
                )
            )
        return methods

    def _check_labels(self, key: str, methods: Sequence[Method]) -> None:
        labels = [method.label for method in methods]
        for label in labels:
            self._need(
                labels.count(label) == 1, key, f"different labels in one table, {label!r} is twice"
            )

    def _options(self, key: str, given: Any) -> dict[str, Any]:
        given = given or {}
        self._need(isinstance(given, dict), key, "a mapping of config keys to values")
        for name in given:
            self._need(name not in _RESERVED, f"{key}.{name}", f"no {name}: each run has its own")
        return given

    def _claims(self, methods: Sequence[Method]) -> dict[str, str]:
        claims = self._content.get("claims") or {}
        self._need(isinstance(claims, dict), "claims", "a mapping of roles to methods")
        if not claims:
            return {}
        names = [method.name for method in methods]
        for role in _ROLES:
            self._need(claims.get(role) in names, f"claims.{role}", f"one of {', '.join(names)}")
        self._check_known("claims", claims, set(_ROLES))
        return dict(claims)

    # Runs ----------------------------------------------------------------------------------------

    def _runs(
        self,
        methods: Sequence[Method],
        seeds: Sequence[int],
        points: Sequence[OperatingPoint],
        output: Path,
        pretraining: Pretraining | None,
    ) -> tuple[Run, ...]:
        base = self._content["base"]
        common = self._options("options", self._content.get("options"))
        if pretraining is not None:
            given = any("MODEL.WEIGHTS" in each for each in (common, *(m.options for m in methods)))
            self._need(not given, "pretrain", "no MODEL.WEIGHTS in options beside it")
            common = {**common, "MODEL.WEIGHTS": str(pretraining.weights)}
        drafts = []
        for method in methods:
            seen: set[OperatingPoint] = set()
            for network in method.networks or ("",):
                options = {**common, **method.options, **_network_options(network)}
                cfg = self._load_detector(method, base, options)
                images = (drafts[0][4] if drafts else cfg).DATASETS.TEST
                self._need(
                    cfg.DATASETS.TEST == images, method.name, f"DATASETS.TEST {images} of all"
                )
                found = [point for point in points if _is_trained(point, cfg)]
                where = f"{method.name} {network}".strip()
                self._need(bool(found), where, "one of the points in its range, there is none")
                twice = ", ".join(str(point) for point in found if point in seen)
                self._need(not twice, where, f"points that no other network has, but {twice}")
                seen.update(found)
                self._check_start(where, cfg, pretraining)
                gflops = self._counter.step_gflops(cfg)
                drafts.append((method, network, options, tuple(found), cfg, gflops))
        all_steps = self._steps(drafts)

        runs = []
        for seed in seeds:  # all methods of a seed first: tables fill evenly
            for draft, steps in zip(drafts, all_steps, strict=True):
                method, network, options, found, _, gflops = draft
                folder = output.joinpath(*filter(None, (method.name, network)), f"seed{seed}")
                own = {"SOLVER.MAX_ITER": steps, "SEED": seed, "OUTPUT_DIR": str(folder)}
                options = {**options, **own}
                cfg = self._load_detector(method, base, options)
                training = base, folder, _as_arguments(options), cfg
                runs.append(Run(*training, method, network, seed, found, gflops))
        return tuple(runs)

    def _check_start(self, where: str, cfg: CfgNode, pretraining: Pretraining | None) -> None:
        if pretraining is not None:
            norm = pretraining.cfg.MUTUALNET.NORM
            self._need(
                norm == cfg.MUTUALNET.NORM, where, f"MUTUALNET.NORM {norm}, the pretraining's"
            )
            return
        try:
            check_weights(cfg)
        except ConfigError as error:
            raise PlanError(f"{self._path}, {where}: {error}") from error

    def _load(self, where: str, base: str, options: Mapping[str, Any]) -> CfgNode:
        try:
            return load_config(base, _as_arguments(options))
        except ConfigError as error:
            raise PlanError(f"{self._path}, {where}: {error}") from error

    def _load_detector(self, method: Method, base: str, options: Mapping[str, Any]) -> CfgNode:
        cfg = self._load(f"method {method.name}", base, options)
        if not set(outputs(cfg)) <= {"box", "mask"}:
            raise PlanError(
                f"{self._path}: method {method.name} trains a {cfg.MODEL.META_ARCHITECTURE}"
                f"{' with keypoints' if cfg.MODEL.KEYPOINT_ON else ''}, from {base}; expected a "
                "detector of boxes, or boxes and masks: no other scores are compared."
            )
        return cfg

    def _steps(self, drafts: Sequence[tuple]) -> list[int]:
        """
        Iterations of each network: as many for all, or as many as its method's compute allows.

        The networks of a method share the compute and take equally many steps: what several points
        cost is what all their trainings cost.
        """
        content = self._content
        if ("steps" in content) == ("compute" in content):
            raise PlanError(f"{self._path}: give either steps or compute.")
        if "steps" in content:
            self._need(_is_count(content["steps"]), "steps", "at least 1")
            return [content["steps"]] * len(drafts)
        compute = content["compute"]
        self._need(isinstance(compute, dict), "compute", "as and steps")
        self._check_known("compute", compute, {"as", "steps"})
        self._need(_is_count(compute.get("steps")), "compute.steps", "at least 1")
        allowed = None
        step_gflops: dict[str, float] = defaultdict(float)
        for method, network, _, _, cfg, gflops in drafts:
            step_gflops[method.name] += gflops
            if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupCosineLR":
                raise PlanError(
                    f"{self._path}: with compute, runs differ in length, and the learning rate "
                    "must follow: SOLVER.LR_SCHEDULER_NAME is "
                    f"{cfg.SOLVER.LR_SCHEDULER_NAME!r}; expected 'WarmupCosineLR'."
                )
            if method.name == compute.get("as") and not network:
                allowed = gflops * compute["steps"]
        names = ", ".join(draft[0].name for draft in drafts if not draft[1])
        self._need(allowed is not None, "compute.as", f"one of {names}")
        return [max(1, round(allowed / step_gflops[draft[0].name])) for draft in drafts]

    # Checks --------------------------------------------------------------------------------------

    def _check_known(self, where: str, given: Mapping, known: set[str]) -> None:
        unknown = [str(key) for key in given if key not in known]
        if unknown:
            raise PlanError(
                f"{self._path}: {'.'.join(filter(None, (where, unknown[0])))} is no key of a plan; "
                f"known are {', '.join(sorted(known))}."
            )

    def _need(self, condition: bool, key: str, expected: str) -> None:
        if condition:
            return
        value: Any = self._content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        given = "" if value is None else f" is {textwrap.shorten(repr(value), 100)};"
        raise PlanError(f"{self._path}: {key}{given or ':'} expected {expected}.")

    def _need_list(self, key: str, values: Any, good: Callable[[Any], bool], what: str) -> None:
        fine = isinstance(values, list) and values and all(map(good, values))
        self._need(fine and len(set(values)) == len(values), key, f"a list of different {what}")


def _read_yaml(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A plan's keys, those of the plan that ``_BASE_`` names where it has none of its own."""
    if path.resolve() in readers:
        raise PlanError(f"The plan {path} takes itself over: follow its _BASE_.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"The plan {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise PlanError(f"{path}: expected a mapping of keys to values.")
    for node in (content, content.get("pretrain")):
        if isinstance(node, dict) and isinstance(node.get("base"), str):
            node["base"] = str(path.parent / node["base"])
    if "_BASE_" not in content:
        return content
    base = path.parent / str(content.pop("_BASE_"))
    inherited = _read_yaml(base, (*readers, path.resolve()))
    if {"steps", "compute"} & content.keys():  # there can be one of them
        inherited = {k: v for k, v in inherited.items() if k not in ("steps", "compute")}
    return inherited | content


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_index(value) and value >= 1


def _is_width(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _network_name(where: str, path: Path, given: Any) -> str:
    """A network's width or operating point as it is written in tables and folders."""
    try:
        if "x" in str(given):
            return str(OperatingPoint.parse(str(given)))
        return str(OperatingPoint(float(given), 1)).partition("x")[0]
    except ValueError as error:
        raise PlanError(
            f"{path}: {where}.networks: {given!r} is neither a width nor an operating point."
        ) from error


def _network_options(network: str) -> dict[str, Any]:
    """The config keys that make a network of one width, and of one resolution if it has one."""
    if not network:
        return {}
    width, _, resolution = network.partition("x")
    options: dict[str, Any] = {
        "MUTUALNET.WIDTH_RANGE": (float(width), float(width)),
        "MUTUALNET.GRID.WIDTHS": (float(width),),
    }
    if resolution:
        resolutions = (int(resolution),)
        options |= {
            "MUTUALNET.RESOLUTIONS": resolutions,
            "MUTUALNET.GRID.RESOLUTIONS": resolutions,
            "INPUT.MIN_SIZE_TRAIN": resolutions,
        }
    return options


def _is_trained(point: OperatingPoint, cfg: CfgNode) -> bool:
    try:
        check_points([point], cfg)
    except ConfigError:
        return False
    return point.width >= trained_widths(cfg)[0]


def _as_arguments(options: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(part) for item in options.items() for part in item)
