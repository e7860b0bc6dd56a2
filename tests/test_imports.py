"""Imports point one way, importing is cheap, and what is public is documented."""

import ast
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import npmobilevit
from npmobilevit import ops

PACKAGE = Path(npmobilevit.__file__).parent

# Each unit (a module, or a package below npmobilevit) and the units next to it that it may import: the table of
# reference/architecture.md. What those may import, it may import too.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "files": (),
    "config": ("errors",),
    "ops": ("errors",),
    "images": ("errors",),
    "scope": ("ops",),
    "arithmetic": ("scope",),
    "layers": ("scope", "config"),
    "network": ("layers",),
    "outputs": ("ops",),
    "label_maps": ("ops",),
    "image_processing": ("label_maps", "images"),
    "checkpoints": ("config", "files"),
    "engine": ("network",),
    "cost": ("network",),
    "models": ("network", "arithmetic", "outputs", "checkpoints", "image_processing", "engine"),
    "visual": ("models",),
    "results": ("visual",),
    "pipeline": ("models", "results"),
    "distributed": ("pipeline",),
    "validation": ("pipeline",),
    "explanation": ("pipeline", "cost"),
    "fixed_point": ("validation",),
    "__init__": ("validation", "explanation", "fixed_point"),  # the public names; that it loads little is tested below
    "cli": ("__init__",),
    "__main__": ("cli",),
    "pytest_plugin": (),  # standard library only, at import
}

# Only inside functions and for type checkers, so that importing the module stays cheap and the direction holds.
LATE = {
    ("config", "checkpoints"),
    ("image_processing", "checkpoints"),
    *(("pytest_plugin", unit) for unit in ("errors", "pipeline", "validation")),
}

FOREIGN = {
    "numpy": None,  # anywhere
    "PIL": {"images", "image_processing", "visual", "results", "pipeline", "explanation", "validation", "cli"},
    "safetensors": {"checkpoints"},
    "huggingface_hub": {"checkpoints"},
    "pytest": {"pytest_plugin"},
}


def allowed(unit: str) -> set[str]:
    """All units that this one may import: the closure of the table, and itself."""
    found = {unit}
    for lower in MAY_IMPORT[unit]:
        found |= allowed(lower)
    return found


def imported(tree: ast.AST, package: str, *, late: bool = False) -> Iterator[tuple[str, bool, int]]:
    """Dotted names that a module imports, whether that is late, and the line; relative names are made absolute."""
    for node in ast.iter_child_nodes(tree):
        inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "npmobilevit":  # what is named are modules, or names of __init__
                yield from ((f"{name}.{alias.name}", inside, node.lineno) for alias in node.names)
            else:
                yield name, inside, node.lineno
        else:
            yield from imported(node, package, late=inside)


def problems(root: Path) -> list[str]:
    """Every import below the package folder `root` that the tables do not allow."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        unit = parts[0]
        package = ".".join(["npmobilevit", *parts[:-1]])
        where = path.relative_to(root).as_posix()
        if unit not in MAY_IMPORT:
            found.append(f"{where}: not in the table of imports")
            continue
        for name, late, line in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            first, *rest = name.split(".")
            if first != "npmobilevit":
                users = FOREIGN.get(first, set()) if first not in sys.stdlib_module_names else None
                if users is not None and unit not in users:
                    found.append(f"{where}:{line}: may not import {name}")
                continue
            target = rest[0] if rest and rest[0] in MAY_IMPORT else "__init__"
            if target not in allowed(unit) and not (late and (unit, target) in LATE):
                found.append(f"{where}:{line}: may not import {name}")
    return found


def test_imports_point_one_way():
    assert problems(PACKAGE) == []


def test_the_table_has_no_cycle_and_no_stranger():
    for unit, lower in MAY_IMPORT.items():
        assert set(lower) <= set(MAY_IMPORT)
        assert all(unit not in allowed(other) for other in lower)  # a cycle would end in RecursionError


BAD_TREE = {
    "layers.py": "from npmobilevit.network import base_model\n",
    "errors.py": "import numpy as np\nfrom . import config\n",
    "ops/conv.py": "from ..scope import Scope\nfrom npmobilevit import layers\n",
    "ops/norm.py": "def f():\n    import torch\n",
    "scope.py": "class A:\n    def f(self):\n        from transformers import AutoModel\n",
    "config.py": "from npmobilevit.checkpoints import read_json\n",
    "network.py": "def f():\n    from npmobilevit.checkpoints import read_json\n",
    "models.py": "if True:\n    try:\n        import onnx.helper\n    except ImportError:\n        pass\n",
    "images.py": "import npmobilevit\n",
    "outputs.py": "import huggingface_hub\n",
    "network2.py": "",
    "pipeline.py": "if TYPE_CHECKING:\n    from npmobilevit.cli import main\n",
}

GOOD_TREE = {
    "__init__.py": "from npmobilevit.models import A\nfrom npmobilevit import ops\n",
    "layers.py": "import numpy.typing\nfrom npmobilevit.ops.arrays import Array\nfrom npmobilevit import config, ops\n",
    "ops/__init__.py": "from .conv import conv2d\n",
    "ops/conv.py": "import math, os.path\nfrom ..errors import ShapeError\nfrom .arrays import Array\n",
    "config.py": "if TYPE_CHECKING:\n    import npmobilevit.checkpoints\ndef f():\n    from .checkpoints import read\n",
    "images.py": "from PIL import Image\n",
    "checkpoints/hub.py": "import huggingface_hub\n",
    "cli.py": "from npmobilevit import pipeline, load\n",
}


def write_tree(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_the_check_finds_every_wrong_import(tmp_path):
    found = problems(write_tree(tmp_path, BAD_TREE))
    assert sorted(found) == [
        "config.py:1: may not import npmobilevit.checkpoints",
        "errors.py:2: may not import npmobilevit.config",
        "images.py:1: may not import npmobilevit",
        "layers.py:1: may not import npmobilevit.network",
        "models.py:3: may not import onnx.helper",
        "network.py:2: may not import npmobilevit.checkpoints",
        "network2.py: not in the table of imports",
        "ops/conv.py:1: may not import npmobilevit.scope",
        "ops/conv.py:2: may not import npmobilevit.layers",
        "ops/norm.py:2: may not import torch",
        "outputs.py:1: may not import huggingface_hub",
        "pipeline.py:2: may not import npmobilevit.cli",
        "scope.py:3: may not import transformers",
    ]


def test_the_check_lets_right_imports_pass(tmp_path):
    assert problems(write_tree(tmp_path, GOOD_TREE)) == []


def test_no_framework_is_mentioned_in_an_import():
    """A second, cruder look: frameworks belong to tools/ and to tests marked framework."""
    frameworks = {"torch", "torchvision", "transformers", "timm", "tensorflow", "onnx", "onnxruntime", "jax"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in frameworks, f"{path}:{node.lineno}"


# importing


def run_python(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_needs_numpy_and_the_standard_library_only():
    code = """
import sys
before = set(sys.modules)
import npmobilevit
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - set(sys.stdlib_module_names) - {"numpy", "npmobilevit"}))
"""
    strangers = set(run_python(code).split())
    assert not {name for name in strangers if not name.startswith("_")}, strangers


def test_the_network_needs_no_other_package():
    modules = ("config", "errors", "layers", "models", "network", "ops", "outputs", "scope")
    code = f"""
import sys
import {", ".join(f"npmobilevit.{name}" for name in modules)}
print(*sorted({{"PIL", "safetensors", "huggingface_hub", "httpx", "torch", "transformers"}} & set(sys.modules)))
"""
    assert run_python(code).split() == []


def test_every_public_name_can_be_had():
    assert sorted(npmobilevit.__all__) == npmobilevit.__all__
    assert sorted(ops.__all__) == sorted(set(ops.__all__))
    for module in (npmobilevit, ops):
        for name in module.__all__:
            assert getattr(module, name) is not None
    assert set(npmobilevit.__all__) <= set(dir(npmobilevit))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = npmobilevit.no_such_name


# names


def public(module: ModuleType) -> dict[str, Any]:
    """The classes and functions among the public names."""
    members = {name: getattr(module, name) for name in module.__all__}
    return {name: value for name, value in members.items() if inspect.isclass(value) or inspect.isfunction(value)}


def test_no_module_bears_the_name_of_a_public_function():
    """Else the name means one or the other, depending on what was imported before."""
    modules = {path.stem for path in PACKAGE.rglob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not modules & set(public(npmobilevit))
    # ops.linear is the function once ops is imported, and nobody imports the module but ops itself
    assert modules & set(public(ops)) <= {"linear"}


# docstrings


def sections(documented: Any) -> set[str]:
    lines = (inspect.getdoc(documented) or "").splitlines()
    return {a.strip() for a, b in itertools.pairwise(lines) if b.strip() and set(b.strip()) == {"-"}}


def lacking(name: str, function: Any, *, method: bool = False) -> list[str]:
    """What the docstring of a function should have and has not."""
    doc = inspect.getdoc(function) or ""
    if not doc or not doc.splitlines()[0].strip():
        return [f"{name}: docstring"]
    wanted = set()
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    # a single argument that the first lines speak of needs no section of its own, nor do those described elsewhere
    if len(parameters) > 1 and not re.search(r":(func|meth|class):", doc):
        wanted.add("Parameters")
    returns = inspect.signature(function).return_annotation
    one_line = len(parameters) <= 1 or method
    if returns not in (None, "None", inspect.Signature.empty) and not one_line:
        wanted.add("Returns")
    missing = wanted - sections(function)
    return [f"{name}: section {section}" for section in sorted(missing)]


def all_lacking(module: ModuleType) -> list[str]:
    found = []
    for name, value in public(module).items():
        if inspect.isfunction(value):
            found += lacking(name, value)
            continue
        found += [] if value.__doc__ else [f"{name}: docstring"]
        own = {key: member for key, member in vars(value).items() if not key.startswith("_") or key == "__call__"}
        for key, member in own.items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function):
                found += lacking(f"{name}.{key}", function, method=True)
    return found


@pytest.mark.parametrize("module", [npmobilevit, ops], ids=lambda module: module.__name__)
def test_what_is_public_is_documented(module):
    assert all_lacking(module) == []


def test_the_check_of_docstrings_finds_what_is_lacking():
    def bare(x: int) -> int:
        return x

    def no_sections(x: int, y: int) -> int:
        """Add."""
        return x + y

    def good(x: int, y: int) -> int:
        """Add.

        Parameters
        ----------
        x, y : int

        Returns
        -------
        int
        """
        return x + y

    assert lacking("bare", bare) == ["bare: docstring"]
    assert lacking("no_sections", no_sections) == ["no_sections: section Parameters", "no_sections: section Returns"]
    assert lacking("good", good) == []

    class Method:
        def bare(self) -> None:
            pass

    module = ModuleType("made_up")
    module.__all__ = ["Method", "bare"]
    module.Method, module.bare = Method, bare
    assert all_lacking(module) == ["Method: docstring", "Method.bare: docstring", "bare: docstring"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), path
