"""Tools are imported as modules; what one does to the log does not outlive its test."""

import logging

import pytest


@pytest.fixture(autouse=True)
def loggers_as_before():
    """A tool sets up handlers, which would write to where the tests' output no longer goes."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "mutualnet_det")]
    states = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, states, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
