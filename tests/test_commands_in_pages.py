"""The commands that the pages and the results tell: their options, configs and plans are there."""

import re
import shlex
from pathlib import Path

import pytest

import mutualnet
import mutualnet_det
from mutualnet_det.config import find_config, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "install.md"]
PAGES += sorted((ROOT / "docs" / "guides").glob("*.md"))
SCRIPTS = sorted((ROOT / "results").glob("*/command.sh"))
# Configs that a guide has its reader write, and words that stand for what the reader has.
OF_THE_READER = {"configs/facade.yaml", "configs/birds.yaml", "CONFIG"}


def commands(text):
    """The words of each `mutualnet` command of a shell script."""
    for line in text.replace("\\\n", " ").split("\n"):
        if re.match(r"^\s*([A-Z_]+=\S+ |torchrun .* -m |srun )*mutualnet ", line):
            words = shlex.split(line, comments=True)
            words = words[words.index("mutualnet") + 1 :]
            # Of the functions in a script: any folder will do, and no further keys.
            yield [re.sub(r"\$\w+", "x", word) for word in words if word != "${@:2}"]


def all_commands():
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            yield from ((page, words) for words in commands(block))
    for script in SCRIPTS:
        yield from ((script, words) for words in commands(script.read_text("utf-8")))


COMMANDS = list(all_commands())


@pytest.mark.parametrize(
    "words", [words for _, words in COMMANDS], ids=[f"{p.stem}-{w[0]}" for p, w in COMMANDS]
)
def test_commands_are_understood(words):
    if words[1:] == ["--help"]:
        return
    args = mutualnet.load_tool(words[0]).parse_args(words[1:])
    name = getattr(args, "config_file", None)
    if name and name not in OF_THE_READER:
        load_config(name, args.opts)
    if words[0] == "compare":
        assert Path(find_config(args.plan, "lab")).is_file()


def imports():
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            yield from re.findall(r"^from mutualnet_det import (\w+)", block, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(imports())))
def test_what_pages_import_is_public(name):
    assert name in mutualnet_det.__all__
    assert hasattr(mutualnet_det, name)
