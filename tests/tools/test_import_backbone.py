"""The command lines of tools/import_backbone.py and tools/export_backbone.py."""

import importlib

import pytest
import torch
import torchvision

from mutualnet_det.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a tool from ``tmp_path``; gives what it prints."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        tool = importlib.import_module(f"tools.{name}")
        tool.main(tool.parse_args(arguments))
        return capsys.readouterr().out

    return run


def test_there_and_back(run, tmp_path):
    state = torchvision.models.mobilenet_v2(num_classes=3).state_dict()
    torch.save(state, tmp_path / "source.pth")
    options = ["--resolutions", "160", "192"]
    output = run("import_backbone", "source.pth", "imported.pth", *options)
    for text in ("MobileNetV2 of torchvision", "192 160", "MODEL.PIXEL_MEAN", "untrained"):
        assert text in output
    assert output.endswith("\nWritten to imported.pth.\n")
    imported = torch.load(tmp_path / "imported.pth", weights_only=True)
    assert imported["mutualnet"]["resolutions"] == [192, 160]

    output = run("export_backbone", "imported.pth", "back.pth")
    assert output == "Written to back.pth: MobileNetV2 of torchvision.\n"
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    output = run("export_backbone", "imported.pth", "back.pth", "--names", "timm")
    assert output == "Written to back.pth: MobileNetV2 of timm.\n"
    assert "conv_stem.weight" in torch.load(tmp_path / "back.pth", weights_only=True)


@pytest.mark.parametrize("tool", ["import_backbone", "export_backbone"])
def test_errors_are_the_users_to_mend(run, tmp_path, tool):
    (tmp_path / "source.pth").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="source.pth .13 bytes. is truncated or not a checkpoint"):
        run(tool, "source.pth", "out.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]


@pytest.mark.parametrize("option", ["--widths", "--resolutions", "--resolution"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "x"])
def test_options_that_are_no_numbers_above_0(run, capsys, option, value):
    with pytest.raises(SystemExit):
        run("import_backbone", "source.pth", "out.pth", option, value)
    assert f"{option}" in capsys.readouterr().err
