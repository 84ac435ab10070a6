"""The bounds in setup.cfg exclude every release with a known hole, and this environment is within them."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

SETUP = Path(__file__).parents[1] / "setup.cfg"
LOCK = SETUP.with_name("requirements.lock")
KNOWN_HOLES = [
    # (package, hole, first release without it)
    ("aiohttp", "CVE-2026-59881, CVE-2026-69243", "3.14.2"),
    ("aiohttp", "CVE-2026-69244", "3.14.3"),
    ("aiohttp", "the bound of ray 2.60 itself", "3.14.4"),
    ("pillow", "CVE-2026-55379, CVE-2026-55798, CVE-2026-59197 to 59200", "12.3.0"),
    # Its CVE record is of GHSA-462x-pgg6-55fp, which the release notes of Pillow 13.0.0 list under Security.
    ("pillow", "CVE-2026-112395", "13.0.0"),
    ("ray", "jobs from any user of the machine: no token by default", "2.59.0"),
    ("torch", "CVE-2026-24747 (weights_only)", "2.10.0"),
    ("torchvision", "the release for torch 2.10", "0.25.0"),
    ("tqdm", "CVE-2024-34062", "4.66.3"),
    ("urllib3", "CVE-2026-44432", "2.7.0"),
]


def requirements() -> list[Requirement]:
    """Return the requirements of the package and of all its extras."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    return [Requirement(line) for text in lists for line in text.splitlines() if line]


@pytest.mark.parametrize(("package", "hole", "fixed"), KNOWN_HOLES, ids=lambda value: value.split(",")[0])
def test_no_release_with_a_known_hole_is_allowed(package: str, hole: str, fixed: str) -> None:
    bounds = [requirement.specifier for requirement in requirements() if requirement.name == package]
    assert bounds, f"{package} has no bound of its own"
    for bound in bounds:
        lowest = max(Version(part.version) for part in bound if part.operator in (">=", "=="))
        assert lowest >= Version(fixed), f"{package} {bound} allows a release with a known hole: {hole}"
        assert fixed in bound or lowest > Version(fixed)


def test_the_installed_packages_are_within_the_bounds() -> None:
    installed = {}
    for requirement in requirements():
        try:
            installed[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed
        assert requirement.specifier.contains(installed[requirement.name], prereleases=True), str(requirement)
    assert {package for package, _, _ in KNOWN_HOLES} <= installed.keys()


def test_the_lock_file_has_a_version_within_the_bounds_of_every_requirement_of_the_tests() -> None:
    """`make lock` writes it; CI installs it without resolving anything."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    lists = [setup["options"]["install_requires"], setup["options.extras_require"]["dev"]]
    pins: dict[str, list[str]] = {}
    for name, pinned in re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE):
        pins.setdefault(name, []).append(pinned)  # several where Python versions differ
    for requirement in (Requirement(line) for text in lists for line in text.splitlines() if line):
        name = canonicalize_name(requirement.name)
        assert pins.get(name), f"{name} is not in {LOCK.name}: run make lock"
        assert all(pinned in requirement.specifier for pinned in pins[name]), f"{requirement}: run make lock"
    for block in re.split(r"^(?=[a-z0-9])", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_lock_file_has_every_package_that_a_package_of_it_requires() -> None:
    """CI installs with hashes, which refuses a requirement without an entry. Checks the packages that are installed."""
    entries = re.findall(r"^([a-z0-9.-]+)(?:\[\S*\])?==", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    checked = 0
    for package in entries:
        try:
            required = requires(package) or []
        except PackageNotFoundError:
            continue  # of another platform or Python
        checked += 1
        for requirement in map(Requirement, required):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in entries, (
                    f"{package} requires {requirement.name}: run make lock"
                )
    assert checked > 100


def test_dev_has_every_extra_but_detectron2() -> None:
    """The tests need what only some commands need, too."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    extras = {name: set(text.split("\n")) - {""} for name, text in setup["options.extras_require"].items()}
    assert extras.keys() >= {"captioning", "docs", "s3", "tensorboard"}
    for name, needed in extras.items():
        assert name == "detectron2" or needed <= extras["dev"], name
