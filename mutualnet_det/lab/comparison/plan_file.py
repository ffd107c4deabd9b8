"""A plan's YAML: what it may hold, and every mistake in it that needs no config to be seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ...errors import UserError
from ...records import Record, check_keys
from ...slimmable import OperatingPoint

# What a plan gives each run itself.
_RESERVED = ("SOLVER.MAX_ITER", "SEED", "OUTPUT_DIR")


class PlanError(UserError, ValueError):
    """A plan that cannot be carried out; the message names the file and the key."""


@dataclass(frozen=True)
class Method:
    """
    A method under comparison.

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


class _Keys(Record):
    """Keys of a plan; one without a value counts as left out."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        given = check_keys(cls, {} if given is None else given)
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if value is not None}
        return given


def need(condition: object, message: str) -> None:
    """PlanError with this message unless the condition holds."""
    if not condition:
        raise PlanError(message)


def _check_different(values: list[Any]) -> list[Any]:
    for value in values:
        need(values.count(value) == 1, f"{value!r} is given twice")
    return values


def _check_name(name: str) -> str:
    need(name.replace("_", "").isalnum(), "expected letters, digits and _ in the name")
    return name


def _check_option(key: str) -> str:
    need(key not in _RESERVED, "each run has its own; leave it out")
    return key


def _network_name(given: Any) -> str:
    """A network's width or operating point as it is written in tables and folders."""
    try:
        if "x" in str(given):
            return str(OperatingPoint.parse(str(given)))
        return str(OperatingPoint(float(given), 1)).partition("x")[0]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{given!r} is neither a width nor an operating point") from error


_T = TypeVar("_T")
_Different = Annotated[list[_T], Field(min_length=1), AfterValidator(_check_different)]
# A name or label may look like a number.
_Text = Annotated[str, BeforeValidator(str)]
_Role = Literal["mutual", "us_net", "independent"]
_Options = dict[Annotated[str, AfterValidator(_check_option)], Any]


class _MethodRecord(_Keys):
    label: _Text | None = None
    options: _Options = {}
    networks: list[Annotated[str, BeforeValidator(_network_name)]] = []


_Methods = Annotated[
    dict[Annotated[_Text, AfterValidator(_check_name)], _MethodRecord], Field(min_length=1)
]


class _PretrainRecord(_Keys):
    base: str
    output: str
    steps: PositiveInt
    options: _Options = {}


class _ComputeRecord(_Keys):
    method: str = Field(alias="as")
    steps: PositiveInt


class PlanFile(_Keys):
    """A whole plan."""

    base: str
    output: str
    seeds: _Different[NonNegativeInt]
    widths: _Different[PositiveFloat]
    resolutions: _Different[PositiveInt]
    options: _Options = {}
    steps: PositiveInt | None = None
    compute: _ComputeRecord | None = None
    pretrain: _PretrainRecord | None = None
    methods: _Methods
    studies: dict[_Text, _Methods] = {}
    claims: dict[_Role, str] = {}
    resamples: PositiveInt = 1000

    def all_methods(self) -> tuple[Method, ...]:
        """Return the methods, those of no study first."""
        return tuple(
            Method(name, given.label or name, study, given.options, tuple(given.networks))
            for study, methods in {"": self.methods, **self.studies}.items()
            for name, given in methods.items()
        )

    @model_validator(mode="after")
    def _check_methods(self) -> PlanFile:
        methods = self.all_methods()
        names = [method.name for method in methods]
        for name in names:
            need(names.count(name) == 1, f"the name {name!r} is given to two methods")
        # The reference stands in the table of each study.
        for study in ("", *self.studies):
            labels = [m.label for m in methods if m.study == study or m is methods[0]]
            for label in labels:
                where = f"studies.{study}" if study else "methods"
                need(labels.count(label) == 1, f"{where}: the label {label!r} is twice in a table")
        for role in get_args(_Role) if self.claims else ():
            claimed = self.claims.get(role)
            expected = f"expected one of {', '.join(names)}"
            need(claimed in names, f"claims.{role} is {claimed!r}; {expected}")
        need((self.steps is None) != (self.compute is None), "give either steps or compute")
        if self.compute is not None:
            single = [method.name for method in methods if not method.networks]
            given = f"compute.as is {self.compute.method!r}"
            need(self.compute.method in single, f"{given}; expected one of {', '.join(single)}")
        if self.pretrain is not None:
            options = (self.options, *(method.options for method in methods))
            given_twice = any("MODEL.WEIGHTS" in each for each in options)
            need(not given_twice, "beside pretrain, options must leave MODEL.WEIGHTS out")
        return self


def read_yaml(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
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
    inherited = read_yaml(base, (*readers, path.resolve()))
    if {"steps", "compute"} & content.keys():  # there can be one of them
        inherited = {k: v for k, v in inherited.items() if k not in ("steps", "compute")}
    return inherited | content
