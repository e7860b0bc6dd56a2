import pickle
import warnings

import pytest

from npmobilevit import errors
from npmobilevit.errors import CheckpointError, ModelFallbackWarning, NpMobileViTError

ERRORS = [getattr(errors, name) for name in errors.__all__ if issubclass(getattr(errors, name), Exception)]
RAISED = [kind for kind in ERRORS if issubclass(kind, NpMobileViTError)]


def test_the_list_is_complete():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__)
    assert {kind.__name__ for kind in ERRORS} - {kind.__name__ for kind in RAISED} == {"ModelFallbackWarning"}


@pytest.mark.parametrize("kind", RAISED)
def test_message_and_code(kind):
    error = kind("what, found, allowed", "some-code")
    assert str(error) == "what, found, allowed"
    assert error.args == ("what, found, allowed",)
    assert error.code == "some-code"
    assert kind("only a message").code == "unknown"


@pytest.mark.parametrize("kind", RAISED)
def test_an_error_survives_a_process_border(kind):
    error = kind("what, found, allowed", "some-code")
    error.__cause__ = ValueError("the cause is lost, as for any exception")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.code) == (str(error), error.code)


@pytest.mark.parametrize("kind", RAISED)
def test_it_is_also_the_builtin_error_that_one_expects(kind):
    if kind is NpMobileViTError:
        return
    builtin = OSError if kind is CheckpointError else ValueError
    with pytest.raises(builtin, match="found"):
        raise kind("found", "some-code")
    assert issubclass(kind, NpMobileViTError)
    assert not issubclass(kind, ValueError if builtin is OSError else OSError)


def test_every_error_is_drawn_in_the_tree():
    for kind in RAISED:
        assert kind.__name__ in errors.__doc__


def test_the_fallback_warning_can_be_silenced_alone():
    assert issubclass(ModelFallbackWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ModelFallbackWarning)
        warnings.warn("the shipped model is used", ModelFallbackWarning, stacklevel=1)
