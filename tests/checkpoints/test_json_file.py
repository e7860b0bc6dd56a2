import os

import pytest

from npmobilevit.checkpoints.json_file import MAX_JSON_BYTES, read_json_object
from npmobilevit.errors import CheckpointError, ConfigError


def test_an_object_comes_back_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"b": [1, 2.5, null, true], "a": {"0": "Łódź"}}', encoding="utf-8")
    value = read_json_object(path)
    assert value == {"b": [1, 2.5, None, True], "a": {"0": "Łódź"}}
    assert list(value) == ["b", "a"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "json-syntax", id="empty"),
        pytest.param(b"{'a': 1}", "json-syntax", id="python"),
        pytest.param(b'{"a": 1} x', "json-syntax", id="more behind"),
        pytest.param(b"<html></html>", "json-syntax", id="html"),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', "json-encoding", id="byte order mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), "json-encoding", id="utf-16"),  # json.loads guesses it
        pytest.param('{"a": "é"}'.encode("latin-1"), "json-encoding", id="latin-1"),
        pytest.param(b"[" * 100_000, "json-too-deep", id="deep list"),
        pytest.param(b'{"a":' * 100_000, "json-too-deep", id="deep object"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", "json-huge-integer", id="5000 digits"),
        pytest.param(b'{"a": NaN}', "json-not-finite", id="nan"),
        pytest.param(b'{"a": [-Infinity]}', "json-not-finite", id="infinity"),
        pytest.param(b'{"a": 1e999}', "json-not-finite", id="overflow"),
        pytest.param(b'{"a": 1, "b": 2, "a": 3}', "json-duplicate-key", id="duplicate key"),
        pytest.param(b'{"x": {"a": 1, "a": 1}}', "json-duplicate-key", id="duplicate key inside"),
        pytest.param(b"[1]", "json-not-an-object", id="list"),
        pytest.param(b"null", "json-not-an-object", id="null"),
        pytest.param(b'{"a": "' + b"x" * MAX_JSON_BYTES + b'"}', "json-too-large", id="too large"),
    ],
)
def test_other_contents_are_refused_with_the_name_of_the_file(tmp_path, data, code):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_json_object(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_the_largest_file_allowed(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{}".ljust(MAX_JSON_BYTES))
    assert read_json_object(path) == {}


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError) as caught:
        read_json_object(tmp_path / "config.json")
    assert caught.value.code == "checkpoint-not-a-file"
