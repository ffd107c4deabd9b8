"""README.md, the guides and results/: what they show and link to is there, and nothing else is."""

import re
from pathlib import Path

import pytest

from mutualnet_det.lab.comparison import effects_table, promises_table
from mutualnet_det.lab.included import with_includes
from mutualnet_det.lab.recording import PRINTED, read_provenance

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [
    page for folder in ("guides", "results") for page in (ROOT / "docs" / folder).glob("*.md")
]
RESULTS = sorted(path for path in (ROOT / "results").iterdir() if path.is_dir())


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def test_the_readme_is_short_and_shows_what_the_files_hold():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert text.count("<!-- results/") == text.count("<!-- end -->") > 0
    assert with_includes(text, ROOT) == text, "run `python tools/results.py refresh`"


@pytest.mark.parametrize("folder", RESULTS, ids=names(RESULTS))
def test_a_result_has_its_commands_its_provenance_and_its_files(folder):
    provenance = read_provenance(folder)
    assert provenance.keys() == {
        *("schema", "date", "commit", "machine", "versions", "seeds", "files", "note")
    }
    there = {path.name for path in folder.iterdir()}
    assert there == {"command.sh", "provenance.json", *provenance["files"]}


@pytest.mark.parametrize("folder", RESULTS, ids=names(RESULTS))
def test_a_page_shows_all_that_a_result_kept(folder):
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in read_provenance(folder)["files"]:
        assert f"results/{folder.name}/{name}" in text, f"no page shows {name}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
    text = re.sub(r"```(?!{).*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r"{literalinclude} (\S+)", text)
    links += re.findall(r"{include} (\S+)", text)
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link


def test_a_kept_file_says_where_it_came_from():
    sources = [source for folder in RESULTS for source in read_provenance(folder)["files"].values()]
    assert PRINTED in sources and all(sources)


def test_short_tables_agree_with_the_comparisons():
    results = ROOT / "results"
    promises = promises_table(
        {
            "shapes, equal steps": (results / "compare_shapes/comparison.csv", "independent"),
            "shapes, equal compute": (
                results / "compare_shapes_compute/comparison.csv",
                "independent_full",
            ),
            "facades, equal steps": (results / "compare_facade/comparison.csv", "independent"),
        }
    )
    assert (results / "promises/promises.md").read_text(encoding="utf-8") == promises
    for effects in results.glob("*/effects_*.md"):
        kind = effects.stem.removeprefix("effects_")
        table = effects_table(effects.with_name("comparison.csv"), kind)
        assert effects.read_text(encoding="utf-8") == table, effects
