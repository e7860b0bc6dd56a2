"""The machine that something was measured on, as far as its system says."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from npmobilevit.engine.blas import openblas_function

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe_machine() -> dict[str, str]:
    """Processor, cores that may be used, caches, system, Python, NumPy, and what its matrix products are made by."""
    return {
        "processor": processor(),
        "cores": str(usable_cores()),
        "caches": caches() or "unknown",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "blas": blas(),
    }


def processor() -> str:
    """Its name; on Linux with family and model, as virtual machines may hide the rest."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else ""
    name, family, model = (
        re.search(rf"^{fact}\s*: (.*)$", text, re.MULTILINE) for fact in ("model name", "cpu family", "model")
    )
    if not name:  # not Linux, or ARM
        return platform.processor() or platform.machine() or "unknown"
    return f"{name[1]} (family {family[1]}, model {model[1]})" if family and model else name[1]


def usable_cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def caches() -> str:
    """Those of the first core, empty if the system does not say: "L1d 32K, L2 1024K, L3 32768K"."""
    found = []
    for folder in sorted(CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level}{'d' if kind == 'Data' else ''} {size}")
    return ", ".join(found)


def blas() -> str:
    """What NumPy was built with, and the kernels that it chose for this processor, if it is an OpenBLAS that says."""
    built: Any = np.show_config(mode="dicts")  # typed as None by NumPy, whichever mode
    library = built["Build Dependencies"]["blas"]
    name = f"{library['name']} {library['version']}"
    kernels = openblas_kernels()
    return f"{name}, kernels {kernels}" if kernels else name


def openblas_kernels() -> str | None:
    """Name of the kernels that the OpenBLAS of NumPy chose; None if it is another library, or it does not say."""
    function = openblas_function("get_corename")
    if function is None:
        return None
    function.restype = ctypes.c_char_p
    return str(function().decode())
