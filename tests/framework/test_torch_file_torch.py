"""Files that torch wrote, and the files of the tests that say they look the same."""

import io
import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from npmobilevit.checkpoints.torch_file import read_torch
from npmobilevit.checkpoints.weights_file import read_safetensors
from npmobilevit.errors import WeightsError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import fuzz_readers  # noqa: E402

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def saved(path):
    def saved(value, **options):
        torch.save(value, path, **options)
        return read_torch(path)

    return saved


@pytest.fixture(scope="module")
def model():
    config = transformers.MobileViTConfig(
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 12, 16, 16, 16, 24],
        num_attention_heads=2,
        num_labels=3,
        image_size=64,
    )
    return transformers.MobileViTForImageClassification(config).eval()


def assert_same(tensors, expected):
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def as_numpy(state):
    return {name: values.detach().numpy() for name, values in state.items()}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_the_same_in_all_formats(saved, model, tmp_path, protocol):
    tensors = saved(model.state_dict(), pickle_protocol=protocol)
    assert_same(tensors, as_numpy(model.state_dict()))
    model.save_pretrained(tmp_path / "safe")
    safe = read_safetensors(tmp_path / "safe" / "model.safetensors")
    assert_same(tensors, {name: safe[name] for name in tensors})
    assert len(safe) == len(tensors)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "ema_state_dict"])
def test_a_training_checkpoint(saved, model, name):
    optimizer = torch.optim.AdamW(model.parameters())
    loss = model(torch.zeros(1, 3, 64, 64)).logits.sum()
    loss.backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "optim": optimizer.state_dict(), "loss": loss.detach(), "best": np.float64(0.5)}
    assert_same(saved(checkpoint | {name: model.state_dict()}), as_numpy(model.state_dict()))


def test_views_and_shared_storages(saved):
    base = torch.arange(24.0).reshape(2, 3, 4)
    views = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "stepped": base[:, 1:, ::2],
        "expanded": base[:, :1].expand(2, 5, 4),
        "one": base[1, 2, 3],
        "empty": base[:0],
        "diagonal": base.diagonal(dim1=1, dim2=2),
        "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }
    tensors = saved(views)
    assert_same(tensors, as_numpy(views))
    tensors["base"][:] = 0
    assert tensors["stepped"].any()


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_dtypes(saved, name):
    values = torch.tensor([[0.0, 1.0, 100.0]]).to(getattr(torch, name))
    assert_same(saved({"a": values, "b": values[0, 1]}), as_numpy({"a": values, "b": values[0, 1]}))


def test_every_bfloat16(saved):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16)
    values = values[values.isfinite()]
    assert_same(saved({"a": values, "b": values[7]}), as_numpy({"a": values.float(), "b": values[7].float()}))


def test_parameters_and_gradients(saved):
    state = {"a": torch.nn.Parameter(torch.arange(3.0)), "b": torch.ones(2, requires_grad=True)}
    assert_same(saved(state), as_numpy(state))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.uint16])
def test_other_dtypes_are_named(saved, dtype):
    with pytest.raises(WeightsError) as caught:
        saved({"a": torch.ones(2).to(dtype)})
    assert caught.value.code == "weights-dtype"


def test_a_whole_module_is_refused(saved):
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        saved(torch.nn.Linear(2, 2))
    assert caught.value.code == "weights-pickle-forbidden"


def test_torchscript_is_refused_and_the_advice_works(path):
    layer = torch.nn.Linear(2, 2)
    torch.jit.script(layer).save(path)
    with pytest.raises(WeightsError) as caught:
        read_torch(path)
    assert caught.value.code == "weights-torchscript"
    torch.save(torch.jit.load(path).state_dict(), path)
    assert_same(read_torch(path), as_numpy(layer.state_dict()))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_old_format_is_refused_and_the_advice_works(saved, path, protocol):
    state = {"a": torch.arange(3.0)}
    with pytest.raises(WeightsError, match="weights_only=True") as caught:
        saved(state, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    assert caught.value.code == "weights-torch-legacy"
    if protocol == 2:  # the others torch cannot load this way either
        torch.save(torch.load(path, weights_only=True), path)
        assert_same(read_torch(path), as_numpy(state))


def test_files_without_checksums(saved):
    torch.serialization.set_crc32_options(False)
    try:
        assert_same(saved({"a": torch.arange(3.0)}), {"a": np.arange(3, dtype=np.float32)})
    finally:
        torch.serialization.set_crc32_options(True)


# What the other tests write is what torch writes.


def pairs():
    base, counts = np.arange(12, dtype="<f4"), np.arange(3)
    yield "dense", {"a": torch.arange(3), "b": torch.arange(3.0)}, {"a": counts, "b": base[:3]}
    state = OrderedDict(a=torch.arange(3))
    state._metadata = OrderedDict({"": {"version": 1}})
    ours = OrderedDict(a=counts)
    ours._metadata = OrderedDict({"": {"version": 1}})
    yield "metadata", {"state_dict": state, "epoch": 3}, {"state_dict": ours, "epoch": 3}


def with_tensors(value):
    """`value` with tensors of fuzz_readers in place of arrays."""
    for name, inner in value.items():
        value[name] = fuzz_readers.tensor(inner) if isinstance(inner, np.ndarray) else inner
        if isinstance(inner, dict):
            with_tensors(inner)
    return value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_pickles_of_the_tests_are_those_of_torch(protocol):
    for name, theirs, ours in pairs():
        assert steps(written(theirs, protocol)) == steps(fuzz_readers.torch_file(with_tensors(ours), protocol)), name


@pytest.mark.parametrize("protocol", [2, 4])
def test_shared_storages_and_parameters_too(protocol):
    base = torch.arange(12.0)
    theirs = {"a": base.reshape(3, 4).T, "b": torch.nn.Parameter(base[2:4]), "c": torch.ones(2, dtype=torch.bfloat16)}
    storage = fuzz_readers.Storage("Float", base.numpy().tobytes(), 12)
    ours = {
        "a": fuzz_readers.Tensor(storage, 0, (4, 3), (1, 4)),
        "b": fuzz_readers.Parameter(fuzz_readers.Tensor(storage, 2, (2,), (1,))),
        "c": fuzz_readers.bfloat16(np.ones(2, "<f4")),
    }
    assert steps(written(theirs, protocol)) == steps(fuzz_readers.torch_file(ours, protocol))
    assert members(written(theirs, protocol)).items() >= members(fuzz_readers.torch_file(ours, protocol)).items() - {
        ("data.pkl", members(fuzz_readers.torch_file(ours, protocol))["data.pkl"])
    }


def written(value, protocol):
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol)
    return file.getvalue()


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {name.split("/", 1)[1]: opened.read(name) for name in opened.namelist()}


MEMO = ("BINPUT", "LONG_BINPUT", "MEMOIZE", "FRAME")


def steps(data):
    """Instructions of the pickle, without what is only kept for later, and with what is got from there."""
    kept, found, last = {}, [], None
    for opcode, argument, _ in pickletools.genops(members(data)["data.pkl"]):
        if opcode.name in MEMO:
            kept[len(kept) if argument is None else argument] = last
        else:
            last = (opcode.name, argument) if "GET" not in opcode.name else ("GET", kept[argument])
            found.append(last)
    return found
