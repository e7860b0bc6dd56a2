"""The main job where there is little: three packages, one thread, little memory, no writable home, no network."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHELSEA = str(ROOT / "reference" / "images" / "chelsea.png")

PREDICT = """
import sys

class OnlyThree:
    # As if nothing but NumPy, Pillow and safetensors were installed
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root in sys.stdlib_module_names or root in {"numpy", "PIL", "safetensors", "npmobilevit"}:
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyThree())
import json, warnings
warnings.simplefilter("ignore")
import npmobilevit as nm
named = nm.predict(sys.argv[1], "cifar10-xx-small")
default = nm.predict(sys.argv[1])
print(json.dumps([named[0].label, default[0].label, sorted(m for m in sys.modules if "huggingface" in m)]))
"""


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (300 * 2**20, 300 * 2**20))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_predict_in_a_minimal_environment(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o500)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        environment[variable] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREDICT, CHELSEA],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=home,
        preexec_fn=limit_memory,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["cat", "cat", []]
    assert list(home.iterdir()) == []
