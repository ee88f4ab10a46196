"""What was written for 0.5 still works: its settings files, options of its command line, parameters of its API.

``names-0.5.json`` was written by that version of itself: the settings that it saved in files, and the names.
"""

import argparse
import inspect
import json
from pathlib import Path

import pytest

from engine.__main__ import parser
from engine.requests import METHODS, fields_of
from engine.requests.shared import BEFORE
from engine.requests.told import check

OLD = json.loads(Path(__file__).with_name("names-0.5.json").read_text(encoding="utf8"))


@pytest.mark.parametrize("method", OLD["settings"])
def test_settings_are_read_and_mean_what_they_meant(method):
    settings, fields = OLD["settings"][method], fields_of(METHODS[method])
    check(METHODS[method], settings)
    assert set(settings) - set(fields) <= {"method", "keyframes"}
    later = {n: BEFORE.get(n, f.default) for n, f in fields.items() if n not in settings}
    assert set(later.values()) <= {"off", "full", (), False}, later  # each as if it were not there


@pytest.mark.parametrize("verb", OLD["options"])
def test_no_option_has_gone(verb):
    verbs = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert set(OLD["options"][verb]) <= {o for action in verbs[verb]._actions for o in action.option_strings}


@pytest.mark.parametrize("method", OLD["parameters"])
def test_no_parameter_has_gone(method):
    assert set(OLD["parameters"][method]) <= set(inspect.signature(METHODS[method]).parameters)
