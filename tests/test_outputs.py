import dataclasses
import pickle

import numpy as np
import pytest

from npmobilevit import outputs
from npmobilevit.outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
    ModelOutput,
    SemanticSegmenterOutput,
)

X, Y, STATES = np.zeros((1, 2)), np.ones((1, 2)), (np.zeros(1),) * 5

# the fields of transformers' classes of the same names, in order
FIELDS = {
    BaseModelOutputWithPoolingAndNoAttention: ("last_hidden_state", "pooler_output", "hidden_states"),
    ImageClassifierOutputWithNoAttention: ("loss", "logits", "hidden_states"),
    SemanticSegmenterOutput: ("loss", "logits", "hidden_states", "attentions"),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_are_those_of_transformers(kind):
    assert tuple(field.name for field in dataclasses.fields(kind)) == FIELDS[kind]
    assert kind.__doc__.startswith("Output of ``MobileViT")


def test_all_classes_are_listed_here():
    defined = {v for v in vars(outputs).values() if isinstance(v, type) and v.__module__ == outputs.__name__}
    assert defined == {ModelOutput, *FIELDS}


def test_attributes_keys_and_positions_agree():
    output = ImageClassifierOutputWithNoAttention(loss=0.5, logits=X, hidden_states=STATES)
    assert output.keys() == ("loss", "logits", "hidden_states")
    assert output["loss"] == output.loss == output[0] == 0.5
    assert output["logits"] is output.logits is output[1] is X
    assert output["hidden_states"] is output[-1] is STATES
    assert output[:2] == (0.5, X)
    assert output.to_tuple() == (0.5, X, STATES)
    assert list(output) == ["loss", "logits", "hidden_states"]
    assert len(output) == 3
    assert dict(output) == {"loss": 0.5, "logits": X, "hidden_states": STATES}


def test_a_field_that_is_none_is_no_key():
    output = ImageClassifierOutputWithNoAttention(loss=None, logits=X)
    assert output.loss is None
    assert output.keys() == ("logits",)
    assert output[0] is X
    assert output.to_tuple() == (X,)
    assert "loss" not in output
    assert "logits" in output
    assert 0 not in output
    with pytest.raises(KeyError, match=r"loss.*there are logits"):
        output["loss"]
    with pytest.raises(IndexError):
        output[1]


def test_an_unknown_key_lists_those_that_exist():
    with pytest.raises(KeyError, match="last_hidden_state, pooler_output"):
        BaseModelOutputWithPoolingAndNoAttention(X, Y)["logits"]
    with pytest.raises(KeyError, match="keys"):  # a method is no key
        BaseModelOutputWithPoolingAndNoAttention(X, Y)["keys"]
    with pytest.raises(AttributeError):
        _ = BaseModelOutputWithPoolingAndNoAttention(X, Y).logits


def test_the_segmenter_never_has_attentions():
    output = SemanticSegmenterOutput(loss=None, logits=X, hidden_states=STATES)
    assert output.attentions is None
    assert output.keys() == ("logits", "hidden_states")


@pytest.mark.parametrize("kind", FIELDS)
def test_an_output_cannot_be_changed_and_can_be_pickled(kind):
    output = kind(X, Y) if kind is BaseModelOutputWithPoolingAndNoAttention else kind(0.25, Y)
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.hidden_states = STATES
    copy = pickle.loads(pickle.dumps(output))
    assert type(copy) is kind
    assert copy.keys() == output.keys()
    assert all(np.array_equal(copy[key], output[key]) for key in output)


def test_comparing_outputs_is_by_identity_and_does_not_fail_on_arrays():
    output = BaseModelOutputWithPoolingAndNoAttention(X, Y)
    assert output == output
    assert (output == BaseModelOutputWithPoolingAndNoAttention(X, Y)) is False
