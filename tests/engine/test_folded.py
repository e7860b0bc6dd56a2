"""The folded weights of a whole network: nothing is left out, and neighbours agree on what they store."""

import numpy as np
import pytest
from networks import RecordingWeights, tiny
from seeded import random_weights

from npmobilevit.engine.folded import Classifier, FoldedNetwork, SegmentationHead, fold

# head, whether a base model widens its output, and what stands on top
HEADS = [
    ("classification", True, Classifier),
    ("segmentation", False, SegmentationHead),
    (None, True, Classifier),
    (None, False, type(None)),
]
heads = pytest.mark.parametrize(("head", "expand_output", "kind"), HEADS)


def folded(head, expand_output, **settings) -> FoldedNetwork:
    config = tiny(**settings)
    weights = random_weights(config, head, expand_output=expand_output, dtype=np.float32)
    return fold(config, weights, head, expand_output=expand_output)


def arrays(layer):
    """All arrays of nested tuples."""
    if isinstance(layer, np.ndarray):
        yield layer
    elif isinstance(layer, tuple):
        for part in layer:
            yield from arrays(part)


@heads
def test_every_parameter_is_read(head, expand_output, kind):
    config = tiny()
    weights = RecordingWeights(random_weights(config, head, expand_output=expand_output, dtype=np.float32))
    network = fold(config, weights, head, expand_output=expand_output)
    assert set(weights) <= set(weights.read)
    assert type(network.head) is kind


@heads
def test_arrays_are_contiguous_floats_of_their_own(head, expand_output, kind):
    config = tiny()
    weights = random_weights(config, head, expand_output=expand_output, dtype=np.float32)
    found = list(arrays(fold(config, weights, head, expand_output=expand_output)))
    assert found
    for array in found:
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert not any(np.shares_memory(array, weight) for weight in weights.values())


def test_what_is_added_is_stored_as_the_same_multiple():
    """The output of an inverted residual is stored as itself, or as its input is where that is added to it."""
    network = folded("classification", True, neck_hidden_sizes=[4, 4, 8, 10, 12, 14, 20])
    (first,), (second, *others) = network.mobilenet
    assert first.residual  # four channels in and out
    assert first.scale == network.exponential.scale  # of the stem's SiLU
    assert not second.residual
    assert second.scale == 1
    assert all(block.residual and block.scale == 1 for block in others)
    assert not any(block.downsampling.residual for block in network.mobilevit)


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [(32, (2, 2, 2), (1, 1, 1)), (16, (2, 2, 1), (1, 1, 1)), (8, (2, 1, 1), (1, 1, 2))],
)
def test_strides_become_dilations(output_stride, strides, dilations):
    blocks = [block.downsampling for block in folded("classification", True, output_stride=output_stride).mobilevit]
    assert tuple(block.stride for block in blocks) == strides
    assert tuple(block.dilation for block in blocks) == dilations


def test_projections_without_biases():
    network = folded("classification", True, qkv_bias=False, layer_norm_eps=0.01)
    assert network.mobilevit[0].eps == 0.01
    assert all(np.isfinite(array).all() for array in arrays(network))
