"""Python imports this at its start where the folder is in PYTHONPATH, so in Ray's workers too: images that do harm.

FAULTS names a JSON file, {sha256 of an image's bytes: [place, deed]}. The decoder, or the detector, does the deed when
it meets the image: it kills its process, hangs, runs out of memory, or waits for a file FAULTS.released. Each time is a
line in FAULTS.log.
"""

import ctypes
import hashlib
import importlib.machinery
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType


def commit(place: str, deed: str) -> None:
    descriptor = os.open(os.environ["FAULTS"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{place} {deed}{f' {os.getpid()}' if deed == 'wait' else ''}\n".encode())
    os.close(descriptor)
    match deed:
        case "kill":  # as the kernel does where the memory ran out
            os.kill(os.getpid(), signal.SIGKILL)
        case "take down the node":  # a panic of its kernel: Ray's daemon of the node is this worker's parent
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "wait":
            while not os.path.exists(os.environ["FAULTS"] + ".released"):
                time.sleep(0.05)
        case "hang":
            ctypes.CDLL(None).sleep(3600)
        case "hang with the interpreter":  # no other Python thread of the process runs meanwhile
            ctypes.PyDLL(None).sleep(3600)


def spoil_decoder(module: ModuleType) -> None:
    whole = module.decode
    pixels: dict[str, list[str]] = sys.modules["sitecustomize"].__dict__.setdefault("pixels", {})

    def decode(data: bytes, *arguments: object, **options: object) -> object:
        fault = json.loads(Path(os.environ["FAULTS"]).read_text()).get(hashlib.sha256(data).hexdigest())
        if fault and fault[0] == "decode":
            commit(*fault)
        image = whole(data, *arguments, **options)
        if fault and fault[0] == "detect":
            pixels[hashlib.sha256(image.pixels).hexdigest()] = fault
        return image

    module.decode = decode


def spoil_detector(module: ModuleType) -> None:
    build = module.build_extractor
    pixels: dict[str, list[str]] = sys.modules["sitecustomize"].__dict__.setdefault("pixels", {})

    def build_extractor(settings: object) -> object:
        import numpy as np
        import torch

        extractor = build(settings)
        whole = extractor.extract

        def extract(images: list, given_boxes: list) -> list:
            arrays = [np.asarray(getattr(image, "pixels", image)) for image in images]
            for fault in filter(None, (pixels.get(hashlib.sha256(array).hexdigest()) for array in arrays)):
                if fault[1] == "out of memory in company":
                    if len(images) > 1:
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                elif fault[1] == "out of memory":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                elif fault[1] == "lose the gpu":
                    commit(*fault)
                    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
                elif fault[1] != "kill in company":
                    commit(*fault)
                elif len(images) > 1:
                    commit(fault[0], "kill")
            return whole(images, given_boxes)

        extractor.extract = extract
        return extractor

    module.build_extractor = build_extractor


SPOILT = {"vilbert.extractors.decode": spoil_decoder, "vilbert.extractors.extractor": spoil_detector}


class Spoiler(importlib.machinery.PathFinder):
    """Finds the modules as Python does, and changes them as soon as they are imported."""

    @classmethod
    def find_spec(cls, fullname: str, path: object = None, target: object = None) -> object:
        if fullname not in SPOILT:
            return None
        spec = super().find_spec(fullname, path, target)
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            SPOILT[fullname](module)

        spec.loader.exec_module = exec_module
        return spec


if "FAULTS" in os.environ:
    sys.meta_path.insert(0, Spoiler)
