"""What `convert` writes, read by transformers: whole, without a warning, and with the same answers."""

import sys
import warnings
from pathlib import Path

import networks
import numpy as np
import pytest

from npmobilevit.checkpoints import convert, read_checkpoint, write_safetensors

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
from test_families import foreign

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.framework


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("head", "library"), [("classification", "timm"), ("classification", "ml-cvnets"), ("segmentation", "ml-cvnets")]
)
def test_transformers_loads_what_was_converted(tmp_path, head, library, dtype):
    config = networks.tiny(output_stride=16, num_labels=21, atrous_rates=[6, 12, 18])
    config = config if head == "segmentation" else networks.tiny(num_labels=1000)
    original = networks.MODELS[head](config, networks.random_weights(config, head))
    write_safetensors(tmp_path / "in.safetensors", foreign(original.state_dict(), library))
    convert(tmp_path / "in.safetensors", tmp_path / "out", dtype=dtype)
    kind = getattr(transformers, type(original).__name__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True, dtype="auto")
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert not any(info.values()), info
    assert model.dtype == getattr(torch, dtype)
    contents = read_checkpoint(tmp_path / "out")
    assert model.config.id2label == contents.config.id2label
    state = model.state_dict()
    assert state.keys() == contents.weights.keys()
    for name, values in contents.weights.items():
        np.testing.assert_array_equal(state[name].to(torch.float32).numpy(), values.astype(np.float32))
    assert processor.size["shortest_edge"] == contents.processor["size"]["shortest_edge"]
    assert processor.do_flip_channel_order is contents.processor["do_flip_channel_order"]
    pixels = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    with torch.no_grad():
        expected = model.float().eval()(torch.from_numpy(pixels)).logits.numpy()
    found = networks.MODELS[head](contents.config, contents.weights)(pixels).logits
    assert networks.relative_error(found, expected) < 2e-6
