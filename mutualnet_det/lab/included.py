"""
Blocks of a page that are files of the repository: what stands between ``<!-- PATH -->`` and
``<!-- end -->`` is the file's content, for readers of pages that cannot include, as on GitHub.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UserError

_BLOCK = re.compile(r"^(<!-- (results/\S+) -->\n).*?^(<!-- end -->)$", re.DOTALL | re.MULTILINE)


def with_includes(text: str, root: Path) -> str:
    """
    Fill the blocks of ``text`` with what their files hold: Markdown as it is, the rest as code.

    Args:
        root: the folder that the paths of the files begin at.
    """

    def filled(match: re.Match[str]) -> str:
        path = root / match[2]
        if not path.is_file():
            raise UserError(f"A page includes {match[2]}, which is not in {root}.")
        content = path.read_text(encoding="utf-8").rstrip("\n")
        if path.suffix != ".md":
            content = f"```\n{content}\n```"
        return f"{match[1]}{content}\n{match[3]}"

    return _BLOCK.sub(filled, text)
