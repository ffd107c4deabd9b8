"""The command that inspects data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mutualnet
from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.shapes.classes import VARIANT, generate_classes


@pytest.fixture
def check_data(tmp_path):
    """Runs the command; sheets go to ``tmp_path / "sheets"``."""
    tool = mutualnet.load_tool("check-data")

    def run(*arguments):
        options = ["--output", str(tmp_path / "sheets")]
        tool.main(tool.parse_args([*options, *map(str, arguments)]))

    return run


def test_a_configs_data_sets(check_data, training_cfg, tmp_path, capsys):
    path = tmp_path / "cfg.yaml"
    path.write_text(training_cfg.dump())
    check_data("--config-file", path)
    text = capsys.readouterr().out
    assert text.strip().startswith("tiny_shapes: 12 images")
    with Image.open(tmp_path / "sheets" / "tiny_shapes.png") as sheet:
        assert sheet.width > 1000 and len(np.unique(np.asarray(sheet))) > 50
    with pytest.raises(ConfigError, match="--only is 'other'; the config names tiny_shapes"):
        check_data("--config-file", path, "--only", "other")


def test_a_file_with_its_folder_and_a_mended_copy(check_data, tiny_shapes, tmp_path, capsys):
    _, json_file, image_root = tiny_shapes
    data = json.loads(Path(json_file).read_text())
    data["annotations"][0]["bbox"] = [900, 900, 10, 10]
    data["annotations"][1]["iscrowd"] = 1
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SystemExit) as error:
        check_data("--data", path, image_root)
    assert error.value.code == 1
    out = tmp_path / "fixed.json"
    check_data("--data", path, image_root, "--fix", out, "--crowds-are-objects")
    text = capsys.readouterr().out
    assert f"{out} is written:\n  left out: 1 boxes outside" in text
    assert "1 crowds are objects now" in text
    check_data("--data", out, image_root)
    with pytest.raises(DatasetError, match="is there already"):
        check_data("--data", path, image_root, "--fix", out)
    with pytest.raises(ConfigError, match="--fix mends one data set, of mine, fixed"):
        both = ("--data", path, image_root, "--data", out, image_root)
        check_data(*both, "--fix", tmp_path / "other.json")


def test_folders_of_classes(check_data, tmp_path, capsys):
    for name in ("train", "val"):
        generate_classes(VARIANT, str(tmp_path / name), 24, seed=0)
    check_data("--folder", tmp_path / "train", "--folder", tmp_path / "val")
    text = capsys.readouterr().out
    assert "images of each class" in text
    with Image.open(tmp_path / "sheets" / "val.png") as sheet:
        assert len(np.unique(np.asarray(sheet))) > 50
    cfg = load_config("pretrain_shapes")
    cfg.defrost()
    cfg.DATASETS.IMAGE_FOLDERS = [["mine", str(tmp_path / "val")]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mine",), ()
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    check_data("--config-file", tmp_path / "cfg.yaml")
    assert capsys.readouterr().out.strip().startswith("mine: ")


@pytest.mark.parametrize("arguments", [(), ("--crowds-are-objects", "--data", "a", "b")])
def test_what_is_missing_is_told(check_data, arguments, capsys):
    with pytest.raises(SystemExit):
        check_data(*arguments)
    assert "--config-file or --data" in (text := capsys.readouterr().err) or "--fix" in text


def test_an_option_among_the_overrides_is_refused(check_data, capsys):
    with pytest.raises(SystemExit):
        check_data("--config-file", "a.yaml", "MODEL.MASK_ON", "False", "--fix", "b.json")
    assert "--fix must come before the KEY VALUE overrides" in capsys.readouterr().err
