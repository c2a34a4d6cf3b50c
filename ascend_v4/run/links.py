"""Where the links among a checkpoint's files lead: what a container needs beside the folder.

A hub's cache keeps a snapshot as links into a folder of blobs:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["linked_places"]

#: A folder this near to the root is the image's own there, and must not be hidden.
SHALLOW = 3


def linked_places(directory: str) -> list[tuple[str, str]]:
    """Return the places that links in ``directory`` lead to outside of it, each once.

    Pairs of the place on the host, without links, and the path that a link means where only
    ``directory`` itself is mounted. Whole folders where their files keep their names.
    """
    found: dict[tuple[str, str], None] = {}
    for link in links_in(directory):
        meant = os.path.normpath(link.parent / link.readlink())
        real = Path(os.path.realpath(link))
        if Path(meant).is_relative_to(directory) or not real.exists():
            continue
        pair = (str(real), meant)
        deep = len(Path(meant).parent.parts) >= SHALLOW
        if deep and real.is_file() and real.name == Path(meant).name:
            pair = (str(real.parent), str(Path(meant).parent))
        found[pair] = None
    return list(found)


def links_in(directory: str) -> Iterator[Path]:
    """Yield the links below a directory, in order; linked folders are not entered."""
    for folder, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            if path.is_symlink():
                yield path
