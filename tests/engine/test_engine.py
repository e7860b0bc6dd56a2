"""Plans and teams of an engine: made when needed, given back, shared by threads, and no other in any fork."""

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import networks
import numpy as np
import pytest
from leftovers import (
    children,
    eventually,
    held,
    is_alive,
    needs_processes,
    output_of,
    program,
    shared_blocks,
    succeeds_in_a_fork,
    within,
    workers_threads,
)
from networks import pixels, tiny

from npmobilevit.engine import blas, crews, engine, why_not, why_not_size
from npmobilevit.engine import plan as plan_module
from npmobilevit.engine.crews import WorkerLost

MODES = ["threads", pytest.param("processes", marks=needs_processes)]
modes = pytest.mark.parametrize("workers", MODES)


@pytest.fixture(scope="module", autouse=True)
def no_garbage_of_other_tests():
    gc.collect()


@pytest.fixture(autouse=True)
def two_workers(monkeypatch):
    """On any machine."""
    monkeypatch.setattr(blas, "threads", lambda: 2)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(two_workers):
    before = held()
    yield
    assert eventually(lambda: held() == before), (held(), before)


@pytest.fixture
def make_model():
    """Makes models, and closes them when the test is over."""
    made = []

    def make(workers="threads", head="classification", **options):
        made.append(networks.make_model(head, precision="float32", engine="fast", workers=workers, **options))
        return made[-1]

    yield make
    for model in made:
        model.close()


def picture(height: int = 32, width: int = 32, n: int = 1) -> np.ndarray:
    return pixels(n, 3, height, width, dtype=np.float32)


@pytest.fixture(scope="module")
def expected():
    """The logits of the readable network for a batch, in float64."""
    model = networks.make_model("classification")
    return lambda x: model(x.astype(np.float64)).logits


def assert_right(logits: np.ndarray, witness: np.ndarray) -> None:
    assert logits.dtype == np.float32
    assert np.abs(logits - witness).max() < 3e-6 * np.abs(witness).max()


# Answers


@modes
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_batch_by_any_number_of_workers(workers, count, n, make_model, expected, monkeypatch):
    monkeypatch.setattr(blas, "threads", lambda: count)
    model, x = make_model(workers), picture(33, 47, n)
    for _ in range(2):
        assert_right(model(x).logits, expected(x))
    kind = workers if count > 1 else "thread"
    assert str(model.plan(33, 47)).startswith(f"33 x 47 pixels: the fast engine, {min(count, 4)} {kind}")


@modes
def test_a_picture_has_the_same_bits_in_every_batch_and_the_same_answer_alone(workers, make_model):
    model, x = make_model(workers), picture(48, 32, 3)
    together = model(x).logits
    assert np.array_equal(model(x).logits, together)
    assert np.array_equal(model(x[::-1].copy()).logits, together[::-1])
    alone = np.concatenate([model(x[i : i + 1]).logits for i in range(3)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-6 * np.abs(together).max())
    assert np.array_equal(model(x[:1]).logits, alone[:1])


@modes
def test_all_threads_and_processes_find_the_same_bits(workers, make_model, monkeypatch):
    x = picture(65, 64)
    found = make_model(workers, "segmentation")(x).logits
    monkeypatch.setattr(crews, "processes_are_missing", lambda: "a test")
    assert np.array_equal(make_model("threads", "segmentation")(x).logits, found)


def test_results_are_the_callers_own(make_model):
    model, x = make_model(), picture()
    first = model(x, output_hidden_states=True)
    kept = copy.deepcopy(first.to_tuple())
    first.hidden_states[0][...] = 7
    first.logits[...] = 7
    again = model(x, output_hidden_states=True).to_tuple()
    assert np.array_equal(kept[0], again[0])
    assert all(np.array_equal(a, b) for a, b in zip(kept[1], again[1], strict=True))


@modes
def test_threads_that_call_at_the_same_time(workers, make_model, expected):
    """Of more sizes than there are teams."""
    model = make_model(workers)
    sizes = [(32, 32), (32, 48), (48, 32), (33, 35)]
    inputs = [pixels(1 + i % 2, 3, *sizes[i % 4], dtype=np.float32) * np.float32(1 - i / 16) for i in range(8)]
    witnesses = [expected(x) for x in inputs]

    def call(i: int) -> None:
        for _ in range(3):
            assert_right(model(inputs[i]).logits, witnesses[i])

    with within(60), ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call, i) for i in range(8)]:
            done.result()


@modes
def test_several_models_at_the_same_time(workers, make_model, expected):
    x, models = picture(), [make_model(workers) for _ in range(4)]
    witness, before = expected(x), blas.thread_control().read()
    with within(60), ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda model: [model(x).logits for _ in range(5)], models):
            assert_right(logits[-1], witness)
    assert blas.thread_control().read() == before


# What is held, and given back


@modes
def test_nothing_is_held_before_the_first_call_and_after_close(workers, make_model):
    before = held()
    model = make_model(workers)
    assert held() == before
    model(picture())
    assert held() != before
    model.close()
    assert eventually(lambda: held() == before)
    model.close()
    model(picture())
    model.close()
    assert eventually(lambda: held() == before)


@modes
def test_fifty_times_made_and_closed(workers, make_model):
    model = make_model(workers)
    before = held()
    for _ in range(50):
        model(picture())
        model.close()
    assert eventually(lambda: held() == before)


@modes
def test_a_model_that_is_forgotten_gives_back_what_it_holds(workers):
    before = held()
    model = networks.make_model("classification", precision="float32", engine="fast", workers=workers)
    model(picture())
    del model
    assert eventually(lambda: held() == before)


@modes
def test_sizes_that_were_not_used_for_longest_make_room(workers, make_model, monkeypatch):
    model, kept = make_model(workers), 3
    widths = range(32, 32 + 2 * kept)
    model(picture(32, widths[-1]))
    one = held()
    largest = model.plan(32, widths[-1]).size_in_bytes
    model.close()
    monkeypatch.setattr(engine, "KEPT_BYTES", kept * largest)
    for width in widths:
        model(picture(32, width))
    assert [key.width for key in model._engine._teams] == list(widths)[-kept:]
    assert eventually(lambda: len(children()) == kept * len(one[0]))
    assert eventually(lambda: workers_threads() == kept * one[3])
    assert shared_blocks() <= kept * one[2]
    model(picture(32, widths[-kept]))  # used: now the others are older
    model(picture(32, 31 + kept))
    assert widths[-kept] in [key.width for key in model._engine._teams]


def test_a_plan_larger_than_all_that_is_kept_is_kept_alone(make_model, expected, monkeypatch):
    model = make_model()
    monkeypatch.setattr(engine, "KEPT_BYTES", 1)
    for width in (32, 33):
        assert_right(model(picture(32, width)).logits, expected(picture(32, width)))
        assert [key.width for key in model._engine._teams] == [width]


@modes
def test_large_pictures_of_a_batch_are_shared_one_by_one(workers, make_model, expected, monkeypatch):
    model, x = make_model(workers), picture(33, 47, 3)
    monkeypatch.setattr(engine, "APART_PIXELS", 33 * 47 - 1)
    assert_right(model(x).logits, expected(x))
    assert [key.apart for key in model._engine._teams] == [False]


@modes
def test_a_limit_of_threads_makes_a_plan_of_its_own_and_no_more(workers, make_model, expected, monkeypatch):
    model, made = make_model(workers), []
    monkeypatch.setattr(engine, "make_plan", lambda *given: made.append(given[2]) or plan_module.make_plan(*given))
    for count in (2, 1, 2, 1):
        monkeypatch.setattr(blas, "threads", lambda count=count: count)
        assert_right(model(picture()).logits, expected(picture()))
    assert made == [2, 1]


@modes
def test_closed_in_the_midst_of_a_call(workers, make_model):
    """As a handler of a signal, or the end of the program, may do: the call begins anew."""
    model, x = make_model(workers), picture()
    right = model(x).logits
    plan = next(iter(model._engine._teams.values())).plans[0]
    assert np.array_equal(model(x).logits, right)
    stage = plan.stages[3]
    closing = (model.close, ())
    plans = model._engine._teams
    key, team = next(iter(plans.items()))
    interrupted = [*plan.stages]
    interrupted[3] = stage._replace(programs=((closing, *stage.programs[0]), *stage.programs[1:]))
    team.crew._stages = tuple(interrupted)
    assert_right(model(x).logits, right)
    assert key not in plans or plans[key] is not team


def test_a_call_in_the_midst_of_another_of_the_same_thread_is_refused(make_model, expected):
    model, x, refusals = make_model(), picture(), []
    model(x)
    team = next(iter(model._engine._teams.values()))

    def again() -> None:
        with pytest.raises(RuntimeError, match="in the midst of another call"):
            model(x)
        refusals.append(1)

    first = team.plans[0].stages[0]
    team.crew._stages = (
        first._replace(programs=(((again, ()), *first.programs[0]), *first.programs[1:])),
        *team.plans[0].stages[1:],
    )
    assert_right(model(x).logits, expected(x))
    assert refusals == [1]
    assert_right(model(x).logits, expected(x))


@modes
def test_plans_go_at_once_when_their_model_is_closed(workers, make_model):
    gc.disable()
    try:
        model = make_model(workers)
        model(picture())
        model(picture(n=2))
        gone = [weakref.ref(plan.pixels) for team in model._engine._teams.values() for plan in team.plans]
        assert len(gone) == 3
        model.close()
        assert eventually(lambda: not any(ref() is not None for ref in gone))
    finally:
        gc.enable()


@needs_processes
def test_twins_of_one_model_do_not_hold_the_memory_of_another(make_model):
    """A twin is forked from a process that has other plans, too."""

    def shared_by(process: int) -> int:
        with open(f"/proc/{process}/maps") as maps:
            return maps.read().count("/dev/zero (deleted)")

    first, second = make_model("processes"), make_model("processes")
    first(picture(96, 96))
    first(picture(64, 64))
    (blocks,) = {shared_by(twin) for twin in list(children())[:1]}
    older = children()
    second(picture())
    (twin,) = children() - older
    assert 0 < shared_by(twin) <= blocks


def test_batches_of_one_worker_need_no_plan_of_their_own(make_model, monkeypatch):
    monkeypatch.setattr(blas, "threads", lambda: 1)
    model = make_model()
    model(picture())
    model(picture(n=2))
    assert len(model._engine._teams) == 1


@modes
def test_a_change_of_the_number_of_threads_is_followed(workers, make_model, expected, monkeypatch):
    model, x = make_model(workers), picture()
    for count, words in ((2, f"2 {workers}"), (3, f"3 {workers}"), (1, "1 thread"), (4, f"4 {workers}")):
        monkeypatch.setattr(blas, "threads", lambda: count)  # noqa: B023
        assert_right(model(x).logits, expected(x))
        assert f"engine, {words}" in str(model.plan(32, 32))


# Exceptions


class Broken(RuntimeError):
    """A program that fails."""


def fail() -> None:
    raise Broken


def broken_in(model, worker: int, call=fail) -> None:
    """Replace a call of one worker, in the midst of the plan for 32 x 32."""
    made = model._engine._made

    def with_failure(*arguments):
        patch = pytest.MonkeyPatch()
        plan = engine.make_plan

        def broken(*arguments):
            prepared = plan(*arguments)
            stages = list(prepared.stages)
            middle = len(stages) // 2
            programs = list(stages[middle].programs)
            programs[worker] = ((call, ()), *programs[worker])
            stages[middle] = stages[middle]._replace(programs=tuple(programs))
            return prepared._replace(stages=tuple(stages))

        with patch.context() as inside:
            inside.setattr(engine, "make_plan", broken)
            return made(*arguments)

    model._engine._made = with_failure


@modes
@pytest.mark.parametrize("worker", [0, 1])
def test_an_exception_within_a_stage_reaches_the_caller_and_the_next_call_is_right(
    workers, worker, make_model, expected
):
    """Of a twin, too: the process does its work again, and finds the exception."""
    model, x = make_model(workers), picture()
    before = blas.thread_control().read(), np.getbufsize(), np.geterr()
    broken_in(model, worker)
    for _ in range(2):
        with within(5), pytest.raises(Broken):
            model(x)
    assert (blas.thread_control().read(), np.getbufsize(), np.geterr()) == before
    del model._engine._made
    assert_right(model(x).logits, expected(x))


@modes
def test_an_interrupt_ends_the_call_and_the_next_is_right(workers, make_model, expected):
    model, x = make_model(workers), picture()
    broken_in(model, 1, lambda: time.sleep(0.5))
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with within(5), pytest.raises(KeyboardInterrupt):
        model(x)
    timer.join()
    del model._engine._made
    assert_right(model(x).logits, expected(x))


@needs_processes
def test_a_twin_killed_between_calls_is_replaced(make_model, expected):
    model, x = make_model("processes"), picture()
    for _ in range(3):
        assert_right(model(x).logits, expected(x))
        (twin,) = children()
        os.kill(twin, signal.SIGKILL)
        assert eventually(lambda: not is_alive(twin))  # noqa: B023
        with within(5):
            assert_right(model(x).logits, expected(x))
        assert "2 processes" in str(model.plan(32, 32))


@needs_processes
def test_a_twin_killed_within_a_call_costs_nothing_that_was_made(make_model, expected):
    model, x = make_model("processes"), picture(32, 32, 4)
    witness = expected(x)
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.02):
            for twin in children():
                os.kill(twin, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with within(60):
            for _ in range(15):
                assert_right(model(x).logits, witness)
    finally:
        stop.set()
        killer.join()
    assert_right(model(x).logits, witness)


# Where there can be no processes, or not as many


def test_without_fork_threads_take_the_place_of_processes(make_model, expected, monkeypatch):
    monkeypatch.delattr(os, "fork", raising=False)
    model, x = make_model("processes"), picture()
    assert_right(model(x).logits, expected(x))
    assert "2 threads (" in str(model.plan(32, 32))
    assert "has no fork" in model.plan(32, 32).workers_reason


@needs_processes
def test_where_no_process_can_be_made_threads_take_their_place(make_model, expected, monkeypatch):
    def lost(stages):
        tried.append(len(stages))
        raise WorkerLost

    tried = []
    monkeypatch.setattr(engine, "_CREWS", {**engine._CREWS, "processes": lost})
    model, x = make_model("processes"), picture()
    for _ in range(3):
        assert_right(model(x).logits, expected(x))
    assert len(tried) == 1  # not again at every call
    assert model.plan(32, 32).workers == "2 threads"
    assert model.plan(32, 32).workers_reason == "no more processes could be started"
    model(picture(n=2))
    assert len(tried) == 2


@modes
def test_where_no_thread_can_be_started_one_is_enough(workers, make_model, expected, monkeypatch):
    def lost(stages):
        raise WorkerLost

    monkeypatch.setattr(engine, "_CREWS", {**engine._CREWS, "processes": lost, "threads": lost})
    model = make_model(workers)
    for n in (1, 3):
        x = picture(n=n)
        assert_right(model(x).logits, expected(x))
    assert model.plan(32, 32).workers == "1 thread"
    assert f"no more {workers}" in str(model.plan(32, 32))


def test_without_openblas_one_thread_is_enough(make_model, expected, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(blas, "thread_control", lambda: None)
    model, x = make_model("processes"), picture()
    assert_right(model(x).logits, expected(x))
    assert "1 thread (the number of threads of NumPy's products cannot be told)" in str(model.plan(32, 32))


def test_the_environment_limits_the_workers():
    code = """
for workers in ("threads", "processes"):
    made = model(workers)
    made(x)
    say(made.plan(32, 32).workers, "because", made.plan(32, 32).workers_reason, len(twins()), threading.active_count())
"""
    because = "because NumPy's products use one thread here"
    assert output_of(code, threads=1) == [f"1 thread {because} 0 1", f"1 thread {because} 0 1"]


def test_what_the_engine_has_something_against():
    assert why_not(tiny()) is None
    assert why_not(tiny(hidden_act="swish")) is None
    for change in ({"hidden_act": "relu"}, {"patch_size": 4}, {"conv_kernel_size": 5}):
        ((name, value),) = change.items()
        assert why_not(tiny(**change)) == f"it needs {name} {getattr(tiny(), name)!r}, and the config has {value!r}"
    assert why_not_size(32, 32) is None
    assert "32 x 31" in why_not_size(32, 31)
    assert "31 x 500" in why_not_size(31, 500)


# Forks, copies and pickles


@modes
def test_a_fork_has_an_engine_of_its_own(workers, make_model, expected):
    model, x = make_model(workers), picture(n=2)
    witness = expected(x)
    model(x)
    model(x[:1])
    mine = children()

    def child() -> None:
        assert_right(model(x).logits, witness)
        assert_right(model(x[:1]).logits, witness[:1])
        model.close()
        assert not children()

    for _ in range(3):
        assert succeeds_in_a_fork(child)
    assert children() == mine
    assert all(map(is_alive, mine))
    assert_right(model(x).logits, witness)
    assert children() == mine


@modes
def test_a_fork_while_another_thread_is_within_a_call(workers, make_model, expected):
    model, x = make_model(workers), picture()
    witness = expected(x)
    model(x)
    with model._engine._lock:  # as another thread would hold it
        assert succeeds_in_a_fork(lambda: assert_right(model(x).logits, witness))


@modes
def test_a_fork_of_a_fork(workers, make_model, expected):
    model, x = make_model(workers), picture()
    witness = expected(x)
    model(x)

    def child() -> None:
        model(x)
        assert succeeds_in_a_fork(lambda: assert_right(model(x).logits, witness))
        assert_right(model(x).logits, witness)
        model.close()

    assert succeeds_in_a_fork(child)


MODEL = None


def logits_of_the_model(x: np.ndarray) -> np.ndarray:
    return MODEL(x).logits


@needs_processes
@modes
def test_a_pool_of_forks(workers, make_model, expected, monkeypatch):
    model, inputs = make_model(workers), [picture(32, 32 + i) for i in range(4)]
    model(inputs[0])
    monkeypatch.setattr(f"{__name__}.MODEL", model)
    mine = children()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        with within(60), multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map(logits_of_the_model, inputs)
            forks = children() - mine
            grandchildren = {twin for fork in forks for twin in children(fork)}
            pool.terminate()
            pool.join()
    for logits, x in zip(found, inputs, strict=True):
        assert_right(logits, expected(x))
    assert eventually(lambda: not any(map(is_alive, grandchildren)), 5)
    assert children() == mine
    assert all(map(is_alive, mine))
    assert_right(model(inputs[0]).logits, expected(inputs[0]))


@modes
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_an_engine_of_its_own(workers, copied, make_model, expected):
    model, x = make_model(workers), picture()
    model(x)
    mine = held()
    other = copied(model)
    assert held() == mine
    assert (other.engine, other.workers) == ("fast", workers)
    assert_right(other(x).logits, expected(x))
    other.close()
    assert eventually(lambda: held() == mine)
    assert_right(model(x).logits, expected(x))


# The end of the process

LOOP = """
made = model()
made(x)
say(*twins())
while True:
    made(x)
"""


def twins_of(process) -> list[int]:
    twins = [int(word) for word in process.stdout.readline().split()]
    assert twins, process.stderr.read()
    assert all(map(is_alive, twins))
    return twins


@needs_processes
@pytest.mark.parametrize("then", ["while True: made(x)", "time.sleep(60)"], ids=["busy", "idle"])
def test_twins_end_when_their_process_is_killed(then):
    with program(f"made = model()\nmade(x)\nsay(*twins())\n{then}") as process:
        twins = twins_of(process)
        time.sleep(0.1)
        process.kill()
        process.wait()
        assert eventually(lambda: not any(map(is_alive, twins)), 3)


@needs_processes
@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"], ids=["of Python", "of a library"])
def test_twins_end_when_their_process_is_killed_and_a_fork_of_it_lives_on(fork):
    """A fork that Python knows nothing of has the other end of their sockets."""
    code = f"""
import ctypes
made = model()
made(x)
mine, child = twins(), {fork}
if child == 0:
    ctypes.PyDLL(None).pause()
say(*mine)
time.sleep(60)
"""
    with program(code) as process:
        twins = twins_of(process)
        process.kill()
        process.wait()
        assert eventually(lambda: not any(map(is_alive, twins)), 3)


@needs_processes
@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "os._exit(0)", "os.abort()"])
def test_twins_end_with_their_process(end):
    with program(f"made = model()\nmade(x)\nsay(*twins())\nsys.stdin.readline()\n{end}") as process:
        twins = twins_of(process)
        process.stdin.close()
        process.wait(20)
        assert eventually(lambda: not any(map(is_alive, twins)), 3)


@needs_processes
def test_an_interrupt_of_the_terminal_ends_the_process_and_its_twins():
    with program(LOOP) as process:
        twins = twins_of(process)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
        assert process.stderr.read().endswith("KeyboardInterrupt\n")
        assert eventually(lambda: not any(map(is_alive, twins)), 3)


@needs_processes
def test_a_program_that_goes_on_after_an_interrupt_gets_right_answers():
    code = """
made = model()
want = made(x).logits
say("ready")
interrupted = 0
while interrupted < 3:
    try:
        while True:
            assert np.array_equal(made(x).logits, want)
    except KeyboardInterrupt:
        interrupted += 1
        say(len(twins()))
made(x)
made.close()
say("left", len(twins()))
"""
    with program(code) as process:
        assert process.stdout.readline() == "ready\n"
        for _ in range(3):
            time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout.readline() in ("0\n", "1\n")
        out, err = process.communicate(timeout=20)
        assert (out, err, process.returncode) == ("left 0\n", "", 0)


@modes
def test_a_process_with_workers_ends_by_itself(workers):
    code = f"made = model({workers!r})\nmade(x)\nsay('done')"
    started = time.monotonic()
    assert output_of(code) == ["done"]
    assert time.monotonic() - started < 20
