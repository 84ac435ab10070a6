"""The wait policy is set before PyTorch and NumPy are loaded, in every process, unless the user has set one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from vilbert.pipeline.openmp import ENVIRONMENT, USERS_OWN, set_wait_policy, wait_policy

REPORT_AT_IMPORT = """
import builtins, json, os, sys
import_module = builtins.__import__

def note(name, *rest, **named):
    if name.partition(".")[0] in ("numpy", "torch"):
        print(json.dumps({name: os.environ.get(name) for name in json.loads(sys.argv[1])}), flush=True)
        os._exit(0)
    return import_module(name, *rest, **named)

builtins.__import__ = note
"""


def policy_at_import(program: str, **environment: str) -> dict[str, str | None]:
    """Return the variables as they are when a fresh Python that runs `program` begins to import NumPy or PyTorch."""
    inherited = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    done = subprocess.run(
        [sys.executable, "-c", REPORT_AT_IMPORT + program, json.dumps(USERS_OWN)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "program",
    [
        "import vilbert.pipeline.predict.predictor",
        "from vilbert.pipeline.cli import main; import torch",
        "from vilbert.pipeline.train.pretraining.run import pretrain",
        "from vilbert.pipeline.train.engine.loop import Training",
    ],
)
def test_it_is_set_before_the_libraries_are_loaded(program: str) -> None:
    assert policy_at_import(program) == {"OMP_WAIT_POLICY": None, **ENVIRONMENT}


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_user_has_set_is_left_alone(name: str, value: str) -> None:
    unset: dict[str, str | None] = dict.fromkeys(USERS_OWN)
    assert policy_at_import("import vilbert.pipeline.predict.predictor", **{name: value}) == {
        **unset,
        name: value,
    }


def test_a_user_who_decides_one_library_decides_all() -> None:
    environment = {"KMP_BLOCKTIME": "200"}
    set_wait_policy(environment)
    assert environment == {"KMP_BLOCKTIME": "200"}


def test_processes_of_a_cluster_get_the_policy_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in USERS_OWN:
        monkeypatch.delenv(name, raising=False)
    assert wait_policy() == {}
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert wait_policy() == {"OMP_WAIT_POLICY": "PASSIVE"}
