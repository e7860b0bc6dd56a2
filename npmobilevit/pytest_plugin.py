"""pytest plugin: a backend checked as a test suite, and a fixture for a port's own tests.

``pytest --npmobilevit-backend package.module:Name`` runs a test for each operator probe, one for all layers, and one
for each input of the network; no test file is needed. The fixture `npmobilevit_check` checks tensors that a test has
at hand::

    def test_port(npmobilevit_check):
        npmobilevit_check(dump, "apple/mobilevit-xx-small", image="cat.png")

Nothing is imported from the rest of the package before an option or the fixture asks for it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from npmobilevit.validation.backends import BackendTrial, Part

DEFAULT_MODEL = "cifar10-xx-small"  # it comes with the package
MARKER = "npmobilevit: a check by npmobilevit of a backend or of a port's tensors"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("npmobilevit", "checking ports of MobileViT")
    group.addoption(
        "--npmobilevit-backend",
        metavar="MODULE:NAME",
        help="check this backend: an object with run(pixel_values), or a class or function without arguments that "
        "makes one; the current folder can be imported from",
    )
    group.addoption(
        "--npmobilevit-model",
        metavar="MODEL",
        default=DEFAULT_MODEL,
        help="name or folder of the checkpoint that was ported (default: %(default)s)",
    )
    group.addoption(
        "--npmobilevit-profile", metavar="PROFILE", default="fp32", help="declared arithmetic (default: %(default)s)"
    )
    group.addoption(
        "--npmobilevit-report", metavar="PATH", help="write what was found on the backend to PATH: .json, .html or .txt"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    spec = config.getoption("npmobilevit_backend")
    if spec is None:
        if config.getoption("npmobilevit_report") is not None:
            raise pytest.UsageError(
                "--npmobilevit-report needs --npmobilevit-backend: there is nothing else to report on"
            )
        return
    config.pluginmanager.register(_BackendPlugin(config, spec), "npmobilevit-backend")


class _BackendPlugin:
    """The tests of one backend."""

    def __init__(self, config: pytest.Config, spec: str) -> None:
        from npmobilevit.errors import NpMobileViTError
        from npmobilevit.validation.backends import BackendTrial
        from npmobilevit.validation.report import require_form

        self.path = config.getoption("npmobilevit_report")
        self.parts: list[Part] = []
        self.message = ""
        if self.path is not None and config.getoption("numprocesses", None):
            raise pytest.UsageError("--npmobilevit-report needs all tests in one process: leave out -n")
        backend = _backend(spec, str(config.invocation_params.dir))
        try:
            if self.path is not None:
                require_form(self.path)
            self.trial: BackendTrial = BackendTrial(
                backend, config.getoption("npmobilevit_model"), profile=config.getoption("npmobilevit_profile")
            )
        except NpMobileViTError as error:
            raise pytest.UsageError(f"npmobilevit: {error}") from error

    @pytest.hookimpl(tryfirst=True)  # so that -k and -m choose among these, too
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        suite = _Suite.from_parent(session, name="npmobilevit", nodeid="npmobilevit", plugin=self)
        collected = session.ihook.pytest_make_collect_report(collector=suite)
        session.ihook.pytest_collectreport(report=collected)  # the terminal counts them
        items.extend(collected.result)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.path is None or not self.parts:
            return
        from npmobilevit.errors import BundleError

        try:
            self.trial.report(self.parts).save(self.path)
            self.message = f"report written to {self.path}"
        except BundleError as error:
            self.message = str(error)
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.message:
            terminalreporter.write_line(f"npmobilevit: {self.message}")


class _Suite(pytest.Collector):
    """All tests of a backend."""

    def __init__(self, *, plugin: _BackendPlugin, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.plugin = plugin

    def collect(self) -> Iterator[_Check]:
        for name, work in self.plugin.trial.tasks().items():
            yield _Check.from_parent(self, name=name, work=work, parts=self.plugin.parts)


class _Check(pytest.Item):
    """One part of the check of a backend."""

    def __init__(self, *, work: Callable[[], Part], parts: list[Part], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.work, self.parts = work, parts
        self.add_marker("npmobilevit")

    def runtest(self) -> None:
        from npmobilevit.validation.backends import describe

        part = self.work()
        self.parts.append(part)
        if part.failures:
            pytest.fail(describe(part), pytrace=False)
        if part.status == "not run":
            pytest.skip(", ".join(part.not_run))

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"npmobilevit {self.name}"


@pytest.fixture(scope="session")
def npmobilevit_check(pytestconfig: pytest.Config) -> Callable[..., Any]:
    """Check a port's tensors: ``npmobilevit_check(dump, model=None, image=None, pixel_values=None, profile=None)``.

    The arguments are those of `npmobilevit.validation.check`; `model` and `profile` are what the options of the
    command line say when None. The test fails if the check does; else the report is returned.
    """
    models: dict[str, Any] = {}

    def check(
        dump: Mapping[str, Any] | Any,
        model: Any = None,
        image: Any = None,
        pixel_values: Any = None,
        profile: str | None = None,
    ) -> Any:
        __tracebackhide__ = True
        from npmobilevit import validation
        from npmobilevit.pipeline import load
        from npmobilevit.validation.backends import headline

        model = pytestconfig.getoption("npmobilevit_model") if model is None else model
        if isinstance(model, str):
            model = models[model] if model in models else models.setdefault(model, load(model))
        declared = pytestconfig.getoption("npmobilevit_profile") if profile is None else profile
        report = validation.check(dump, model, image=image, pixel_values=pixel_values, profile=declared)
        if not report.passed:
            pytest.fail(f"{headline(report.findings)}\n\n{report.to_text()}", pytrace=False)
        return report

    return check


def _backend(spec: str, folder: str) -> Any:
    """The backend that an option names; UsageError if there is none."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise pytest.UsageError(f"--npmobilevit-backend must be MODULE:NAME, found {spec!r}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in name.split("."):
            found = getattr(found, attribute)
        makes_one = inspect.isclass(found) or not hasattr(found, "run")
        return found() if makes_one and callable(found) else found
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise pytest.UsageError(f"--npmobilevit-backend {spec} cannot be had: {told[:500]}") from error
