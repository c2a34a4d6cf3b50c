"""Where a group's extra arguments state a flag."""

from __future__ import annotations

from ascend_v4.core.launch import flag_name, is_flag

from .model import Group

__all__ = ["word_at"]


def word_at(group: Group, name: str) -> int | None:
    """Return the index of the last word of a group's extra that states a flag, or a key of it."""
    head, *keys = name.split(".")
    found = None
    for index, word in enumerate(group.extra):
        flag = flag_name(word.partition("=")[0]) if is_flag(word) else ""
        value = " ".join(group.extra[index : index + 2])
        if flag == name or (flag == head and all(f'"{key}"' in value for key in keys)):
            found = index
    return found
