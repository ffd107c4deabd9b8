"""Files that are replaced whole."""

import json

import pytest

from mutualnet_det.evaluation.files import BATCH, write_json_list


@pytest.mark.parametrize("count", [0, 1, 3, BATCH, 2 * BATCH + 1])
def test_a_list_is_written_as_json_writes_it(tmp_path, count):
    items = [{"id": number, "score": 0.1 + number, "name": "\u00e9"} for number in range(count)]
    write_json_list(tmp_path / "list.json", iter(items))
    assert (tmp_path / "list.json").read_text() == json.dumps(items)


def test_a_failure_leaves_what_was_there(tmp_path):
    write_json_list(tmp_path / "list.json", [1, 2])

    def failing():
        yield 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_json_list(tmp_path / "list.json", failing())
    assert (tmp_path / "list.json").read_text() == "[1, 2]"
    assert [path.name for path in tmp_path.iterdir()] == ["list.json"]
