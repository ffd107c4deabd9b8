"""Blocks of pages that are files of the repository."""

import pytest

from mutualnet_det.errors import UserError
from mutualnet_det.lab.included import with_includes

PAGE = """Before.
<!-- results/a/table.md -->
old
<!-- end -->
Between.
<!-- results/b/output.txt -->
<!-- end -->
"""


@pytest.fixture
def root(tmp_path):
    for name, text in (("a/table.md", "| 1 |\n"), ("b/output.txt", "28.5\n29.0\n")):
        (tmp_path / "results" / name).parent.mkdir(parents=True)
        (tmp_path / "results" / name).write_text(text)
    return tmp_path


def test_blocks_hold_what_the_files_hold(root):
    filled = with_includes(PAGE, root)
    assert filled == (
        "Before.\n<!-- results/a/table.md -->\n| 1 |\n<!-- end -->\n"
        "Between.\n<!-- results/b/output.txt -->\n```\n28.5\n29.0\n```\n<!-- end -->\n"
    )
    assert with_includes(filled, root) == filled


def test_a_file_that_is_gone_is_named(root):
    (root / "results/a/table.md").unlink()
    with pytest.raises(UserError, match=r"results/a/table\.md"):
        with_includes(PAGE, root)
