"""The memory that an action needs, measured in a process of its own."""

import subprocess
import sys

import pytest

MEASURE = """
def mib(name):  # getrusage would count what the parent of this process had, too
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) / 1024

{setup}
_before = mib("VmRSS")
{action}
print(mib("VmHWM") - _before)
"""


def peak_growth(setup: str, action: str) -> float:
    """MiB that `action` needs at most above what a fresh interpreter has after `setup`; both are Python code."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak is read from /proc")
    code = MEASURE.format(setup=setup, action=action)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
