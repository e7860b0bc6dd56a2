import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import VARIANTS, make_model, pixels, random_weights, relative_error, sine_pixels, sine_weights, tiny

from npmobilevit import network
from npmobilevit.config import HIDDEN_ACTS, MobileViTConfig
from npmobilevit.scope import Scope

FORWARD = {"classification": network.image_classification, "segmentation": network.semantic_segmentation}

# Made by transformers 5.23 on torch 2.13 in float64 (spec.md 1.8) with the weights and pixels of networks.sine_*:
# head, config, size, shape of the logits, the first five logits, their sum, and the sums of the five hidden states.
GOLDEN = {
    "classification": (
        "classification",
        {"num_labels": 10},
        (64, 64),
        (1, 10),
        (-1.42417426, -0.046560489, 1.65238743, -1.61815771, 0.471115856),
        -2.0079533,
        (2084.7299, 351.694, 147.51975, 55.628778, 17.326896),
    ),
    "classification with resized maps": (
        "classification",
        {"num_labels": 10},
        (72, 104),
        (1, 10),
        (-1.41733119, -0.048201982, 1.64746223, -1.61076176, 0.467399867),
        -1.99961366,
        (2049.2328, 576.85937, 256.31184, 110.2977, 49.05993),
    ),
    "segmentation, stride 16": (
        "segmentation",
        {"num_labels": 5, "output_stride": 16},
        (64, 96),
        (1, 5, 4, 6),
        (-0.562489519, -0.559991474, -0.560096665, -0.56010137, -0.560166387),
        -32.4324363,
        (2243.0188, 96.214389, 93.707388, 30.85579, 97.709575),
    ),
    "segmentation, stride 8": (
        "segmentation",
        {"num_labels": 5, "output_stride": 8},
        (64, 96),
        (1, 5, 8, 12),
        (-0.588299076, -0.581877366, -0.581926201, -0.581611184, -0.581234712),
        -130.020432,
        (2243.0188, 96.214389, 93.707388, 105.65398, 267.76253),
    ),
}


def run_golden(case: str, dtype: type) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    head, changes, size, *_ = GOLDEN[case]
    config = MobileViTConfig(**VARIANTS["xxs"], **changes)
    weights = {name: value.astype(dtype) for name, value in sine_weights(config, head).items()}
    return FORWARD[head](Scope(weights), sine_pixels(*size).astype(dtype), config)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vectors(case):
    """To all digits that are written down: nine of the logits, eight of the sums."""
    *_, shape, first, total, sums = GOLDEN[case]
    logits, hidden_states = run_golden(case, np.float64)
    assert logits.shape == shape
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits.ravel()[:5], first, rtol=6e-9)
    np.testing.assert_allclose(logits.sum(), total, rtol=6e-9)
    np.testing.assert_allclose([state.sum() for state in hidden_states], sums, rtol=6e-8)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vectors_in_float32(case):
    """torch in float32 is within 6e-7 of them; ours is allowed five times that."""
    *_, shape, first, _, _ = GOLDEN[case]
    logits, hidden_states = run_golden(case, np.float32)
    assert logits.shape == shape
    assert logits.dtype == np.float32
    assert all(state.dtype == np.float32 for state in hidden_states)
    np.testing.assert_allclose(logits.ravel()[:5], first, rtol=0, atol=3e-6)


# shapes

CHANNELS = {"xxs": (16, 24, 48, 64, 80), "xs": (32, 48, 64, 80, 96), "s": (32, 64, 96, 128, 160)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_classification(variant):
    config = MobileViTConfig(**VARIANTS[variant], num_labels=1000)
    weights = random_weights(config, "classification", dtype=np.float32)
    height, width = (64, 96) if variant == "xxs" else (32, 64)
    x = pixels(1, height=height, width=width, dtype=np.float32)
    logits, hidden_states = network.image_classification(Scope(weights), x, config)
    assert logits.shape == (1, 1000)
    assert [state.shape for state in hidden_states] == [
        (1, channels, height // factor, width // factor)
        for channels, factor in zip(CHANNELS[variant], (2, 4, 8, 16, 32), strict=True)
    ]
    features = network.base_model(Scope(weights, "mobilevit"), x, config, expand_output=True)
    assert features.last_hidden_state.shape == (1, config.neck_hidden_sizes[6], height // 32, width // 32)
    assert features.pooled.shape == (1, config.neck_hidden_sizes[6])


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_segmentation(variant, output_stride):
    size = (64, 96) if variant == "xxs" else (32, 32)
    config = MobileViTConfig(**VARIANTS[variant], num_labels=21, output_stride=output_stride)
    weights = random_weights(config, "segmentation", dtype=np.float32)
    x = pixels(1, height=size[0], width=size[1], dtype=np.float32)
    logits, hidden_states = network.semantic_segmentation(Scope(weights), x, config)
    assert logits.shape == (1, 21, size[0] // output_stride, size[1] // output_stride)
    assert [state.shape for state in hidden_states] == [
        (1, channels, size[0] // min(factor, output_stride), size[1] // min(factor, output_stride))
        for channels, factor in zip(CHANNELS[variant], (2, 4, 8, 16, 32), strict=True)
    ]


def halved(size: int, times: int) -> int:
    for _ in range(times):
        size = (size + 1) // 2
    return size


ANY_SIZE = settings(derandomize=True, deadline=None, max_examples=25)


@ANY_SIZE
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    patch_size=st.integers(1, 4),
    stride=st.sampled_from([8, 16, 32]),
)
def test_any_height_and_width_will_do(height, width, patch_size, stride):
    config = tiny(patch_size=patch_size, output_stride=stride)
    x = pixels(1, height=height, width=width)
    logits, hidden_states = network.image_classification(Scope(CLASSIFIER), x, config)
    assert logits.shape == (1, 5)
    times = (1, 2, 3, *{8: (3, 3), 16: (4, 4), 32: (4, 5)}[stride])
    assert [state.shape[2:] for state in hidden_states] == [(halved(height, t), halved(width, t)) for t in times]
    logits, _ = network.semantic_segmentation(Scope(SEGMENTER), x, config)
    assert logits.shape == (1, 5, halved(height, times[-1]), halved(width, times[-1]))
    assert np.isfinite(logits).all()


CLASSIFIER, SEGMENTER = random_weights(tiny(), "classification"), random_weights(tiny(), "segmentation")


@pytest.mark.parametrize("head", FORWARD)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (2, 3), (31, 33), (64, 32)])
def test_tiny_and_odd_sizes(head, size):
    model = make_model(head)
    x = pixels(1, height=size[0], width=size[1])
    logits = model(x).logits
    assert np.isfinite(logits).all()
    assert not np.array_equal(logits, model(1 - x).logits)


# batches


@pytest.mark.parametrize("size", [(32, 32), (37, 45)])
@pytest.mark.parametrize("head", [None, *FORWARD])
def test_an_image_does_not_depend_on_its_neighbours(head, size):
    """To rounding and not to the bit: the matrix product of a larger batch may add in another order."""
    model = make_model(head)
    x = pixels(3, height=size[0], width=size[1])
    together = model.taps(x)
    for i in range(3):
        alone = model.taps(x[i : i + 1])
        assert list(alone) == list(together)
        for name, value in alone.items():
            share = len(together[name]) // 3  # token sequences: P of them an image
            assert relative_error(together[name][i * share : (i + 1) * share], value) < 1e-13, name


def test_equal_images_in_a_batch_have_equal_logits():
    x = np.repeat(pixels(1), 2, axis=0)
    logits = make_model("classification")(x).logits
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-13)
    other = np.concatenate([x[:1], pixels(1, height=32, width=32)[:, :, ::-1]])
    assert not np.allclose(make_model("classification")(other).logits[1], logits[1])


# config variants


VARIATIONS = [
    {"num_channels": 1},
    {"num_channels": 4},
    {"patch_size": 1},
    {"patch_size": 3},
    {"patch_size": 4},
    {"conv_kernel_size": 1},
    {"conv_kernel_size": 5},
    {"qkv_bias": False},
    {"num_labels": 1},
    {"num_labels": 0},
    {"mlp_ratio": 1},
    {"mlp_ratio": 2.3},
    {"mlp_ratio": 3.0},
    {"expand_ratio": 1},
    {"expand_ratio": 0.5},
    {"num_attention_heads": 1},
    {"num_attention_heads": 2},
    {"neck_hidden_sizes": [8] * 7, "output_stride": 8},
    {"layer_norm_eps": 1e-3},
    {"aspp_out_channels": 1, "atrous_rates": [6, 12, 18]},
]


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        pytest.param(head, changes, id=f"{head}-{changes}")
        for head in FORWARD
        for changes in VARIATIONS
        if (head, changes) != ("segmentation", {"num_labels": 0})  # refused, see test_models
    ],
)
def test_config_variations_run(head, changes):
    config = tiny(**changes)
    x = pixels(2, config.num_channels, 24, 40)
    for precision in ("float32", "float64"):
        output = make_model(head, config, precision=precision)(x, output_hidden_states=True)
        classes = config.num_labels or config.neck_hidden_sizes[6]
        assert output.logits.shape[:2] == (2, classes)
        assert all(np.isfinite(array).all() and array.dtype == precision for array in output.hidden_states)
        assert output.logits.dtype == precision
        assert len(output.hidden_states) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 1},
        {"patch_size": 4},
        {"num_attention_heads": 2},
        {"layer_norm_eps": 1e-3},
        {"output_stride": 16},
        {"output_stride": 8},
        *({"hidden_act": name} for name in HIDDEN_ACTS if name not in ("silu", "swish")),
    ],
    ids=str,
)
def test_settings_that_keep_all_shapes_still_change_the_result(changes):
    """The same weights serve both configs, so only the setting itself can make the difference."""
    weights, x = random_weights(tiny(), "classification"), pixels(1, height=48, width=64)
    if changes.get("hidden_act") == "relu2":  # it squares, layer after layer
        weights = {name: 0.3 * value if "normalization.weight" in name else value for name, value in weights.items()}
    one, _ = network.image_classification(Scope(weights), x, tiny())
    other, _ = network.image_classification(Scope(weights), x, tiny(**changes))
    assert np.isfinite(other).all()
    assert other.dtype == np.float64
    assert np.abs(one - other).max() > 1e-6


@pytest.mark.parametrize("changes", [{"atrous_rates": [1, 2, 4]}, {"num_attention_heads": 2}], ids=str)
def test_settings_that_keep_all_shapes_still_change_the_segmentation(changes):
    x = pixels(1, height=64, width=96)
    one, _ = network.semantic_segmentation(Scope(SEGMENTER), x, tiny(output_stride=8))
    other, _ = network.semantic_segmentation(Scope(SEGMENTER), x, tiny(**{"output_stride": 8, **changes}))
    assert np.abs(one - other).max() > 1e-6


def test_settings_without_effect_on_the_result():
    weights, x = random_weights(tiny(), "classification"), pixels()
    one, _ = network.image_classification(Scope(weights), x, tiny())
    changes = {
        "image_size": 512,
        "hidden_dropout_prob": 0.9,
        "attention_probs_dropout_prob": 0.9,
        "classifier_dropout_prob": 0.9,
        "aspp_dropout_prob": 0.9,
        "initializer_range": 0.3,
        "atrous_rates": [3, 3, 3],
        "aspp_out_channels": 2,
        "hidden_act": "swish",  # another name of silu
    }
    other, _ = network.image_classification(Scope(weights), x, tiny(**changes))
    assert np.array_equal(one, other)


# the heads


def test_classification_is_pooling_and_a_linear_layer():
    config, x = tiny(), pixels(2)
    features = network.base_model(Scope(CLASSIFIER, "mobilevit"), x, config, expand_output=True)
    np.testing.assert_allclose(features.pooled, features.last_hidden_state.mean(axis=(2, 3)), rtol=1e-12)
    logits, hidden_states = network.image_classification(Scope(CLASSIFIER), x, config)
    expected = np.einsum("nc,kc->nk", features.pooled, CLASSIFIER["classifier.weight"]) + CLASSIFIER["classifier.bias"]
    assert relative_error(logits, expected) < 1e-13
    assert features.last_hidden_state.shape[1] == 20
    assert hidden_states[-1].shape[1] == 14  # before conv_1x1_exp


def test_without_labels_the_logits_are_the_pooled_features():
    config, x = tiny(num_labels=0), pixels()
    weights = random_weights(config, "classification")
    logits, _ = network.image_classification(Scope(weights), x, config)
    features = network.base_model(Scope(weights, "mobilevit"), x, config, expand_output=True)
    assert np.array_equal(logits, features.pooled)


def test_without_expansion_the_last_map_is_that_of_the_encoder():
    features = network.base_model(Scope(SEGMENTER, "mobilevit"), pixels(), tiny(), expand_output=False)
    assert features.pooled is None
    assert features.last_hidden_state is features.hidden_states[-1]


def test_segmentation_sees_the_encoder_and_not_the_expansion():
    heard: dict[str, np.ndarray] = {}
    _, hidden_states = network.semantic_segmentation(Scope(SEGMENTER, tap=heard.__setitem__), pixels(), tiny())
    assert not any("conv_1x1_exp" in name for name in heard)
    assert heard["mobilevit"] is hidden_states[-1]
    expected = np.einsum(
        "nchw,oc->nohw", hidden_states[-1], SEGMENTER["segmentation_head.aspp.convs.0.convolution.weight"][:, :, 0, 0]
    )
    assert relative_error(heard["segmentation_head.aspp.convs.0.convolution"], expected) < 1e-13
    assert heard["logits"] is heard["segmentation_head"]
