"""PredictBatch and SegmentBatch under Dask: a cluster of two worker processes gives what this machine gives alone."""

import itertools
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import printed
import pytest
import test_documents
from PIL import Image

import npmobilevit as nm
from npmobilevit import pipeline
from npmobilevit.distributed import PredictBatch, SegmentBatch

distributed = pytest.importorskip("distributed")

import dask.bag  # noqa: E402

pytestmark = pytest.mark.framework

ROOT = Path(__file__).parents[2]
CHELSEA = ROOT / "reference" / "images" / "chelsea.png"
CLASSIFIER, SEGMENTER = "cifar10-xx-small", "camvid-deeplabv3-xx-small"
CALLS = {"predict": PredictBatch(CLASSIFIER, top_k=3), "segment": SegmentBatch(SEGMENTER, mask=True)}

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

# In a process of its own, because the workers' one thread of BLAS has to be set before NumPy is imported.
LOCAL = """
import pickle, sys
call, pictures = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps(call(pictures)))
"""


def count_loads():
    """On a worker: note, from now on, the name of every checkpoint that it loads."""
    load = pipeline.load
    pipeline.loads = []

    def counted(name, **options):
        pipeline.loads.append(name)
        return load(name, **options)

    pipeline.load = counted


def ends(signal, process):
    """Whether a process, or a group of them, is gone within ten seconds."""
    for _ in range(100):
        try:
            signal(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def loads():
    """On a worker: what it has loaded."""
    return pipeline.loads


@pytest.fixture(scope="module")
def client():
    """Of a cluster with two processes of one thread each, which are gone afterwards."""
    with mock.patch.dict(os.environ):  # Dask leaves the variables of its workers in it
        for variable in THREADS:
            os.environ.pop(variable, None)
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            distributed.Client(cluster) as client,
        ):
            client.run(count_loads)
            processes = client.run(os.getpid).values()
            yield client
    assert len(set(processes) - {os.getpid()}) == 2
    for process in processes:
        assert ends(os.kill, process)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve of different sizes and contents, as paths and bytes in turn; the fourth and the ninth are broken."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    with Image.open(CHELSEA) as chelsea:
        for i in range(12):
            path = folder / f"{i}.png"
            chelsea.crop((10 * i, 5 * i, 130 + 15 * i, 100 + 15 * i)).save(path)
            found.append(path.read_bytes() if i % 2 else str(path))
    found[3] = found[3][:1000]
    found[8] = str(folder / "missing.png")
    return found


def local(call, pictures):
    """What a call gives without Dask, with as many threads of BLAS as a worker has."""
    command = [sys.executable, "-c", LOCAL]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    done = subprocess.run(
        command, input=pickle.dumps((call, pictures)), env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return pickle.loads(done.stdout)


@pytest.mark.parametrize(("command", "chosen"), [("predict", range(12)), ("segment", (0, 3, 5, 8))])
def test_two_workers_give_the_rows_of_a_local_call_and_load_once_each(command, chosen, client, pictures):
    call, images = CALLS[command], [pictures[i] for i in chosen]
    size = len(images) // 4
    batches = [images[i : i + size] for i in range(0, len(images), size)]
    rows = list(itertools.chain.from_iterable(client.gather(client.map(call, batches))))
    assert rows == local(call, images)
    assert [i for i, row in zip(chosen, rows, strict=True) if "error" in row] == [3, 8]
    assert [found.count(call.model) for found in client.run(loads).values()] == [1, 1]


def test_a_bag_takes_it(client, pictures):
    call = CALLS["predict"]
    rows = dask.bag.from_sequence(pictures, partition_size=5).map_partitions(call).compute()
    assert rows == local(call, pictures)


def test_an_iterator_as_the_partition_of_a_bag(client, pictures):
    """Bags hand over what an earlier step has not made yet."""
    call = CALLS["predict"]
    paths = [picture for picture in pictures if isinstance(picture, str)]
    bag = dask.bag.from_sequence([{"path": path} for path in paths], npartitions=2).pluck("path").map_partitions(call)
    assert [row["input"] for row in bag.compute()] == paths


def test_a_worker_has_one_thread_of_blas(client):
    for variable in THREADS:
        assert set(client.run(os.getenv, variable).values()) == {"1"}


def test_a_model_that_is_not_there_raises_its_error_where_the_rows_are_asked_for(client, pictures):
    with pytest.raises(nm.CheckpointError) as caught:
        client.submit(PredictBatch("./no/such/folder"), pictures).result()
    assert caught.value.code == "checkpoint-not-found"


def shown():
    """Code of documents that starts a cluster."""
    for path in test_documents.DOCUMENTS:
        for language, code, line in test_documents.blocks(path.read_text(encoding="utf-8")):
            if language == "python" and "from distributed import" in code:
                yield pytest.param(code, id=f"{path.name}:{line}")


def test_a_document_shows_it():
    assert len(list(shown())) >= 1


@pytest.mark.parametrize("code", list(shown()))
def test_code_with_dask_prints_what_its_comments_say(code, tmp_path):
    """As a file, which the workers import; none of its processes is left."""
    script = tmp_path / "shown.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.splitlines() == [text for texts in printed.said(code).values() for text in texts]
    assert ends(os.killpg, process.pid)
