"""The honest and the faulty ports of tools/, and what the check says of them."""

import json

import networks
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import faulty_ports  # noqa: E402
import injected_mistakes  # noqa: E402
import negative_controls  # noqa: E402
import ports  # noqa: E402
from faulty_ports import MISTAKES  # noqa: E402
from ports import PORTS  # noqa: E402
from transformers.models.mobilevit.modeling_mobilevit import make_divisible  # noqa: E402

from npmobilevit.validation import check  # noqa: E402

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

# Largest difference of the logits from those of float64, over the largest logit.
LIMITS = {
    "fp32": 3e-5,
    "tf32": 3e-2,
    "fp16": 1e-2,
    "fp16-acc16": 2e-2,
    "bf16": 1e-1,
    "int8-dynamic": 3e-1,
}

# Ports that may agree with transformers to the last bit. Another that does was not changed at all.
MAY_AGREE = {"eager", "probed", "packed-qkv", "mean-flat", "inert-dropouts", "blocks", "stages", "ends"}

TASKS = ("classification", "segmentation")
BY_ID = {port.id: port for port in PORTS}
CHECKED_PORTS = ("eager", "fused-layers", "scaled-query", "patch-order", "summed-parts", "sorted", "winograd-4",
                 "silu-tanh", "reciprocal-255", "tf32", "fp16-folded", "bf16", "blocks")  # fmt: skip
CHECKED_MISTAKES = ("CNV-01", "CNV-05", "NRM-06", "NRM-12", "MV2-04", "UNF-04", "UNF-09", "ATT-01", "ATT-06", "TRF-01",
                    "CNV-11", "WGT-01", "FUS-01", "SYS-01", "HED-03", "WGT-02", "WGT-07")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nets():
    """Small networks; none of the dilations is one, and all are within the map."""
    settings = {**networks.TINY, "atrous_rates": [2, 3, 4]}
    return {
        "classification": ports.random_network(transformers.MobileViTForImageClassification, settings),
        "segmentation": ports.random_network(
            transformers.MobileViTForSemanticSegmentation, settings | {"output_stride": 16}
        ),
    }


@pytest.fixture(scope="module")
def x():
    return ports.pixel_values(75, 58, 2, seed=0)


@pytest.fixture(scope="module")
def right(nets, x):
    """Taps of the right network."""
    return {task: ports.run(BY_ID["eager"], nets[task].theirs, x) for task in TASKS}


@pytest.fixture(scope="module")
def exact(nets, x):
    return {task: ports.run(BY_ID["double"], nets[task].theirs, x) for task in TASKS}


def for_tasks(kinds):
    """Each port with every task that it belongs to."""
    return [pytest.param(p, task, id=f"{p.id}-{task}") for p in kinds for task in TASKS if p.task in (None, task)]


# honest ports


@pytest.mark.parametrize(("port", "task"), for_tasks(PORTS))
def test_an_honest_port_computes_the_network_in_its_own_way(port, task, nets, x, right, exact):
    taps = ports.run(port, nets[task].theirs, x)
    logits, expected = taps["logits"], exact[task]["logits"]
    assert np.abs(logits - expected).max() <= LIMITS[port.profile] * np.abs(expected).max()
    assert all(value.dtype == np.float32 for value in taps.values())
    assert {name: taps[name].shape for name in taps.keys() & right[task].keys()} == {
        name: value.shape for name, value in right[task].items() if name in taps
    }
    same = all(np.array_equal(value, right[task][name]) for name, value in taps.items() if name in right[task])
    assert port.id in MAY_AGREE or not same


def test_every_control_of_the_catalogue_has_a_port():
    controls = {port.control for port in PORTS}
    assert controls == {"eager", *(f"N{i}" for i in range(1, 19) if i != 17)}  # 17: the test of released widths
    assert len(BY_ID) == len(PORTS)
    assert {port.profile for port in PORTS} == LIMITS.keys()


def test_released_widths_need_no_rounding_to_multiples_of_eight():
    for variant in ports.VARIANTS.values():
        config = transformers.MobileViTConfig(**variant)
        for width in config.neck_hidden_sizes[:6]:
            expanded = round(width * config.expand_ratio)
            assert make_divisible(expanded, 8) == expanded


@pytest.mark.parametrize(
    ("port", "missing"),
    [
        ("folded", r"(?!.*\.conv_1x1\.).*\.convolution"),
        ("fused-layers", r".*\.(convolution|normalization|activation)"),
        ("scaled-query", r".*\.query"),
        ("patch-order-hidden", r".*(\.transformer.*|\.layernorm)"),
        ("ends", r"(?!pixel_values|logits).*"),
    ],
)
def test_a_port_has_no_taps_for_what_it_does_not_compute(port, missing, nets, x, right):
    taps = ports.run(BY_ID[port], nets["classification"].theirs, x)
    absent = right["classification"].keys() - taps.keys()
    assert absent == set(faulty_ports.at(missing)(faulty_ports.shapes_of(right["classification"])))


def test_a_port_leaves_the_model_as_it_was(nets, x, right):
    for change in (BY_ID["folded"], BY_ID["fp16"], BY_ID["packed-qkv"]):
        ports.run(change, nets["classification"].theirs, x)
    again = ports.run(BY_ID["eager"], nets["classification"].theirs, x)
    assert all(np.array_equal(again[name], value) for name, value in right["classification"].items())


def test_shuffled_patches_are_put_back():
    tokens = torch.arange(2 * 4 * 6 * 3.0).reshape(8, 6, 3)
    shuffled = ports.shuffle(tokens)
    assert not torch.equal(shuffled[:4], tokens[:4])
    assert set(shuffled[:4].flatten().tolist()) == set(tokens[:4].flatten().tolist())  # pictures are not mixed
    assert torch.equal(ports.shuffle(shuffled, back=True), tokens)


def test_tf32_keeps_ten_digits():
    x = torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11 - 2**-20, 0.0])
    assert ports.tf32(x).tolist() == [1 + 2**-10, 1, 1 + 2**-9, -1 - 2**-10, 0]
    assert ports.tf32_cut(x).tolist() == [1 + 2**-10, 1, 1 + 2**-10, -1, 0]


def test_quantised_numbers_are_within_half_a_step():
    x = torch.linspace(-1, 3, 1001)
    integers, scale = ports.quantize_activation(x)
    assert len(integers.unique()) == 256
    assert (integers * scale - x).abs().max() <= 0.5001 * scale
    weight = torch.tensor([[[[1.0, -0.3]]], [[[0.01, 0.003]]]])
    for per_channel, steps in ((False, [1 / 127] * 2), (True, [1 / 127, 0.01 / 127])):
        integers, scale = ports.quantize_weight(weight, per_channel=per_channel)
        assert torch.allclose(scale.expand(2), torch.tensor(steps, dtype=torch.float64))
        assert torch.equal(integers, integers.round())
        assert integers.abs().max() == 127


@pytest.mark.parametrize("port", CHECKED_PORTS)
def test_an_honest_port_passes(port, nets, x):
    net = nets["classification"]
    report = check(ports.run(BY_ID[port], net.theirs, x), net.ours, profile=BY_ID[port].profile)
    assert report.failures == ()


# faulty ports


def test_there_are_thirty_mistakes_and_more():
    assert len({mistake.catalogue for mistake in MISTAKES}) >= 30
    assert len({mistake.id for mistake in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_faulty_port_goes_wrong_first_where_it_is_declared(mistake, nets, x, right):
    task = mistake.task or "classification"
    where = mistake.where(faulty_ports.shapes_of(right[task]))
    taps = faulty_ports.run([mistake], nets[task].theirs, x)
    wrong = [
        name
        for name, value in right[task].items()
        if name in taps and (taps[name].shape != value.shape or np.abs(taps[name] - value).max() > 1e-6)
    ]
    assert wrong[0] == next(name for name in right[task] if name in where)
    assert where <= set(wrong)
    assert taps.keys() <= right[task].keys()


def test_mistakes_of_size_and_batch_are_declared_only_where_they_show():
    model = ports.random_network(transformers.MobileViTForImageClassification, dict(networks.TINY)).theirs
    square = ports.pixel_values(64, 64, 1, seed=0)
    right = ports.run(BY_ID["eager"], model, square)
    hidden = {m.id for m in MISTAKES if m.task != "segmentation" and not m.where(faulty_ports.shapes_of(right))}
    assert hidden == {"UNF-08", "UNF-09", "UNF-10", "UNF-12", "SYS-01"}
    for mistake in MISTAKES:
        if mistake.id in hidden:
            taps = faulty_ports.run([mistake], model, square)
            assert all(np.allclose(taps[name], value, atol=1e-5) for name, value in right.items())


def test_where_a_mistake_shows_at_the_level_of_modules():
    taps = ["a.conv_stem.convolution", "a.attention.attention.query", "a.attention.output.dense", "a.layernorm_before"]
    assert faulty_ports.at_module_level(taps) == {
        "a.conv_stem", "a.attention.attention", "a.attention.output", "a.layernorm_before",
    }  # fmt: skip


def judged(mistakes, net, x, right):
    shapes = faulty_ports.shapes_of(right)
    report = check(faulty_ports.run(mistakes, net.theirs, x), net.ours)
    failing = {finding.tap for finding in report.failures}
    return failing, frozenset().union(*(m.where(shapes) for m in mistakes)), [m.also(shapes) for m in mistakes]


@pytest.mark.parametrize("mistake", CHECKED_MISTAKES)
def test_a_mistake_is_found_at_its_place_and_nothing_else_is_blamed(mistake, nets, x, right):
    mistakes = [injected_mistakes.BY_ID[mistake]]
    failing, must, may = judged(mistakes, nets["classification"], x, right["classification"])
    assert must
    assert failing >= must
    assert failing <= must.union(*may)


def test_three_mistakes_at_once_are_all_found(nets, x, right):
    mistakes = [injected_mistakes.BY_ID[name] for name in ("MV2-04", "ATT-01", "FUS-01")]
    failing, must, _ = judged(mistakes, nets["classification"], x, right["classification"])
    assert failing == must


def test_undeclared_tf32_is_named(nets, x):
    net = nets["classification"]
    report = check(faulty_ports.run([injected_mistakes.BY_ID["NUM-02"]], net.theirs, x), net.ours)
    assert (report.verdict, report.behaves_as) == ("fail", "tf32")


# the tools that count


def test_triples_do_not_touch_one_another(right):
    shapes = faulty_ports.shapes_of(right["classification"])
    visible = [m for m in MISTAKES if m.task != "segmentation"]
    found = injected_mistakes.triples(visible, shapes)
    assert len(found) == injected_mistakes.TRIPLES
    for triple in found:
        a, b, c = (injected_mistakes.BY_ID[name].where(shapes) for name in triple)
        assert not a & b | a & c | b & c


def test_controls_cover_every_port_size_batch_and_seed():
    controls = list(negative_controls.controls())
    assert len(set(controls)) == len(controls)
    own = {c[1:] for c in controls if c.port == "eager"}
    assert len(own) == 5 * (6 * 6 + 2)  # seeds; networks of 3 sizes and 2 batches, and two that see a picture
    assert {c.network for c in controls if c.port == "broadcast-pool"} == {
        "xx-small-segmentation", "camvid-deeplabv3-xx-small",
    }  # fmt: skip
    first_round = controls[: len(controls) // negative_controls.SEEDS]
    assert {c[:5] for c in first_round} == {c[:5] for c in controls}
    assert len({c[:5] for c in first_round}) == len(first_round)
    assert {c.seed for c in first_round if c.port == "eager"} == set(range(negative_controls.SEEDS))


def result(check_name: str, verdict: str, ratio: float) -> dict:
    return {"check": check_name, "port": check_name.partition("/")[0], "verdict": verdict, "behaves_as": "fp32",
            "alarms": ["conv_stem: why"] if verdict == "fail" else [], "unusual": ["a"], "judgements": 7,
            "largest_ratio": ratio, "seconds": 1.0}  # fmt: skip


def test_negative_controls_resume_and_fail_on_a_false_alarm(tmp_path, monkeypatch, capsys):
    state, output = tmp_path / "state.jsonl", tmp_path / "report.json"
    names = [f"eager/xx-small/128x128/{batch}/0" for batch in (1, 2)]
    state.write_text(json.dumps(result(names[0], "screened", 0.25)) + "\n" + '{"check": "eager/xx-sm')  # was killed

    def perform_all(perform, todo, workers, state):
        assert [control.name for control in todo] == [names[1]]
        yield result(names[1], verdict, 0.5)

    monkeypatch.setattr(negative_controls, "perform_all", perform_all)
    arguments = ["", "--state", str(state), "--output", str(output), "--only", "^eager/xx-small/128x128/./0"]
    monkeypatch.setattr("sys.argv", arguments)
    verdict = "pass"
    negative_controls.main()
    (row,) = json.loads(output.read_text())["ports"]
    assert {key: row[key] for key in ("checks", "false_alarms", "screened", "unusual_findings", "largest_ratio")} == {
        "checks": 2, "false_alarms": 0, "screened": 1, "unusual_findings": 2, "largest_ratio": 0.5,
    }  # fmt: skip
    verdict = "fail"
    with pytest.raises(SystemExit, match="1 false alarms"):
        negative_controls.main()
    assert json.loads(output.read_text())["alarms"] == {names[1]: ["conv_stem: why"]}
    assert "conv_stem: why" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["xx-small", "cifar10-xx-small"])
def test_a_control_is_run_checked_and_summed_up(name):
    batch = 0 if name in ports.SHIPPED else 1
    found = negative_controls.perform(negative_controls.Control("reciprocal-255", name, 48, 64, batch, 0))
    assert found["verdict"] == "pass"
    assert found["alarms"] == []
    assert 0 < found["largest_ratio"] < 1
    assert found["judgements"] > 200


@pytest.mark.parametrize("level", ["all", "modules"])
def test_a_mistake_is_run_checked_and_compared(level, monkeypatch):
    trial = injected_mistakes.Trial(("ATT-01",), "classification", 64, 96, 1, level)
    found = injected_mistakes.perform(trial)
    assert injected_mistakes.is_placed(found)
    assert found["places"] == 9
    elsewhere = injected_mistakes.BY_ID["ATT-06"].where
    monkeypatch.setitem(
        injected_mistakes.BY_ID, "ATT-01",
        faulty_ports.Mistake("ATT-01", "ATT-01", "", injected_mistakes.BY_ID["ATT-01"].inject, elsewhere),
    )  # fmt: skip
    found = injected_mistakes.perform(trial)
    assert injected_mistakes.is_placed(found) == (level == "modules")  # query, key and value are within attention there
    if level == "all":
        assert len(found["missed"]) == 27
        assert {tap.rpartition(".")[2] for tap in found["missed"]} == {"query", "key", "value"}
        assert [tap.rpartition(".")[2] for tap in found["blamed"]] == ["attention"] * 9
        assert "MISPLACED" in injected_mistakes.line(found)
