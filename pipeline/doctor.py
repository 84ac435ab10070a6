"""`vilbert doctor`: check the installation and the machine, and suggest fixes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from vilbert.extractors.detectors.registry import DETECTORS, find_detector
from vilbert.plugins import PluginError
from vilbert.settings import validated

DISTRIBUTION = "vilbert-pipeline"
OPTIONAL = (
    *(it.package for it in map(find_detector, DETECTORS.built_in) if it.package),
    *("pycocoevalcap", "pycocotools", "s3fs", "tensorboard"),
)
PYTHONS = ((3, 11), (3, 14))
"""Supported Python versions: the first included, the second excluded."""
GIB = 2**30


@validated
class DoctorSettings:
    """Check the installation: versions, devices, memory, and whether the parts work together.

    Exit status 1 if an essential part does not work.
    """

    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    essential: bool
    what: str
    remedy: str = ""


def version_of(package: str) -> str | None:
    """Return the version of an installed distribution without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def memory_limit() -> int:
    """Return the memory that this process may use, in bytes: that of the machine or the container's lower limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def machine() -> dict[str, str]:
    """Describe the resources of this machine: label to text."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = {
        "system": platform.platform(),
        "cpu": f"{usable} of {os.cpu_count()} cores usable",
        "memory": f"{memory_limit() / GIB:.1f} GiB",
    }
    for name, path in (("/dev/shm", Path("/dev/shm")), ("disk here", Path.cwd())):  # noqa: S108 its size is read
        if path.is_dir():
            usage = shutil.disk_usage(path)
            rows[name] = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} GiB"
    return rows


def check_python() -> Check:
    """Check that this Python version is supported."""
    lowest, above = PYTHONS
    ok = lowest <= sys.version_info[:2] < above
    remedy = "" if ok else f"use Python {lowest[0]}.{lowest[1]} to {above[0]}.{above[1] - 1}"
    return Check(name="python", ok=ok, essential=True, what=platform.python_version(), remedy=remedy)


def requirements() -> list[Requirement]:
    """Return the packages that this one requires without extras, with their version specifiers.

    Raises:
        PackageNotFoundError: This package runs from its source without being installed.
    """
    found = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or ()]
    return [needed for needed in found if needed.marker is None or needed.marker.evaluate({"extra": ""})]


def check_packages() -> Check:
    """Check that every required package is installed in a supported version."""
    try:
        required = requirements()
    except importlib.metadata.PackageNotFoundError:
        what = f"{DISTRIBUTION} itself is not installed, so versions cannot be checked"
        return Check(
            name="packages", ok=False, essential=True, what=what, remedy="pip install -e . in its source folder"
        )
    wrong = {}
    for needed in required:
        version = version_of(needed.name)
        if version is None:
            wrong[needed] = f"{needed.name} is missing"
        elif not needed.specifier.contains(version, prereleases=True):
            wrong[needed] = f"{needed.name} is {version}"
    return Check(
        name="packages",
        ok=not wrong,
        essential=True,
        what=", ".join(wrong.values()) if wrong else f"all {len(required)} required packages have supported versions",
        remedy="pip install " + " ".join(f"'{needed}'" for needed in wrong) if wrong else "",
    )


def check_import(name: str, *, essential: bool, remedy: str) -> Check:
    """Check that a package can be imported, which also detects broken shared libraries."""
    if importlib.util.find_spec(name) is None:
        return Check(name=name, ok=False, essential=essential, what="not installed", remedy=remedy)
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        what = f"cannot be imported: {type(error).__name__}: {error}"
        return Check(name=name, ok=False, essential=essential, what=what, remedy=remedy)
    version = getattr(module, "__version__", None) or version_of(name) or "version unknown"
    return Check(name=name, ok=True, essential=essential, what=f"{version}, can be imported")


def cuda_devices() -> list[str]:
    """Return a description of each CUDA device that torch sees, with its memory."""
    import torch

    names = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        names.append(f"cuda:{index} {device.name}, {device.total_memory / GIB:.1f} GiB")
    return names


def check_nms(device: str, *, essential: bool) -> Check:
    """Check on a device that torchvision's compiled operators load and return correct results."""
    name = f"torchvision.ops on {device}"
    remedy = "torch and torchvision are incompatible: reinstall both from one source (pytorch.org)"
    try:
        import torch
        from torchvision.ops import nms

        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
        kept = nms(boxes, torch.tensor([0.5, 0.9, 0.7], device=device), 0.5).tolist()
    except (ImportError, RuntimeError, OSError, AttributeError, NotImplementedError) as error:
        what = f"nms fails: {type(error).__name__}: {error}"
        return Check(name=name, ok=False, essential=essential, what=what, remedy=remedy)
    ok = kept == [1, 2]
    what = "nms works" if ok else f"nms keeps boxes {kept}, expected [1, 2]"
    return Check(name=name, ok=ok, essential=essential, what=what, remedy="" if ok else remedy)


def check_gpu() -> list[Check]:
    """Check the CUDA devices; a machine without a GPU passes."""
    import torch

    devices = cuda_devices()
    if not devices:
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs only"
        )
        return [Check(name="cuda", ok=False, essential=False, what=f"no device; {built}", remedy="the CPU is used")]
    checks = [Check(name="cuda", ok=True, essential=False, what=name) for name in devices]
    return [*checks, check_nms("cuda", essential=True)]


def examine() -> list[Check]:
    """Run every check, the cheap ones first."""
    reinstall = "reinstall it: pip install --force-reinstall {}"
    checks = [check_python(), check_packages()]
    torch = check_import("torch", essential=True, remedy=reinstall.format("torch torchvision"))
    checks.append(torch)
    if torch.ok:
        checks += [check_nms("cpu", essential=True), *check_gpu()]
    checks += [
        check_import(name, essential=True, remedy=reinstall.format(name))
        for name in ("transformers", "ray", "lmdb", "pyarrow")
    ]
    detectors = map(find_detector, DETECTORS.built_in)
    checks += [check_import(it.package, essential=False, remedy=it.install) for it in detectors if it.package]
    return [*checks, *check_entry_points()]


def check_entry_points() -> list[Check]:
    """Check that plugins of other packages (detectors, formats, scores, tasks, trackers) can be imported."""
    from vilbert.pipeline.rebuild.formats.registry import FORMATS
    from vilbert.pipeline.rebuild.scores.score import SCORES
    from vilbert.pipeline.tasks.registry import TASKS
    from vilbert.pipeline.train.run.trackers import TRACKERS

    checks = []
    for registry in (DETECTORS, FORMATS, SCORES, TASKS, TRACKERS):
        for name in registry.installed():
            try:
                registry.load(name)
            except PluginError as error:
                checks.append(
                    Check(name=name, ok=False, essential=False, what=str(error), remedy="update or uninstall it")
                )
            else:
                what = " ".join((registry.source(name) or {}).values())
                checks.append(Check(name=name, ok=True, essential=False, what=f"{registry.kind} of {what}"))
    return checks


def packages() -> list[str]:
    """Return the names of the required packages, followed by the optional ones."""
    try:
        return [*(needed.name for needed in requirements()), *OPTIONAL]
    except importlib.metadata.PackageNotFoundError:
        return list(OPTIONAL)


def report(versions: dict[str, str | None], rows: dict[str, str], checks: list[Check]) -> str:
    """Format the results as text."""
    width = max(map(len, [*versions, *rows, *(check.name for check in checks)]))
    lines = ["versions"]
    lines += [f"  {name:<{width}}  {version or 'not installed'}" for name, version in versions.items()]
    lines += ["", "machine"]
    lines += [f"  {name:<{width}}  {value}" for name, value in rows.items()]
    lines += ["", "checks"]
    for check in checks:
        mark = "ok" if check.ok else "FAIL" if check.essential else "-"
        lines.append(f"  {mark:<4} {check.name:<{width}}  {check.what}")
        if check.remedy:
            lines.append(f"       {'':<{width}}  {check.remedy}")
    broken = [check.name for check in checks if check.essential and not check.ok]
    lines += ["", f"broken: {', '.join(broken)}" if broken else "everything essential works"]
    return "\n".join(lines)


def doctor(settings: DoctorSettings) -> int:
    """Run all checks and print the results; return 1 if an essential check fails."""
    versions = {"python": platform.python_version(), **{name: version_of(name) for name in packages()}}
    rows, checks = machine(), examine()
    ok = all(check.ok for check in checks if check.essential)
    if settings.json:
        document: dict[str, Any] = {
            "ok": ok,
            "versions": versions,
            "machine": rows,
            "checks": [asdict(check) for check in checks],
        }
        print(json.dumps(document, indent=2))
    else:
        print(report(versions, rows, checks))
    return 0 if ok else 1
