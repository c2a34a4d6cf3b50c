"""Words to tokens: what a shell would make of a word, as far as the script says.

A value that only the run will know stays inside the text as a mark (:func:`mark`), so
that everything around it can still be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .lexer import Lexer, Piece, Ref, Word

__all__ = ["Token", "Value", "expand", "is_marked", "mark", "marks", "plain"]

OPEN, CLOSE = "\ue000", "\ue001"
MARK = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
#: Names that hold whole arguments rather than one value.
MANY = re.compile(r"[@*]|.*(ARGS?|OPTS?|OPTIONS?|EXTRA|FLAGS?|PARAMS)\w*(\[[@*]\])?", re.IGNORECASE)
#: Deepest chain of variables that name variables.
DEPTH = 8


@dataclass(frozen=True)
class Token:
    """One argument after expansion.

    ``at`` and ``quotes`` give each character's source offset (-1: not from this word)
    and quoting. ``open`` marks an argument that may be none, one or many at run time.
    """

    text: str
    line: int
    start: int
    end: int
    at: tuple[int, ...] = ()
    quotes: str = ""
    open: bool = False


Value = str | tuple[Token, ...]


def mark(name: str) -> str:
    """Return the text that stands for a value only the run knows."""
    return OPEN + name.replace(OPEN, "").replace(CLOSE, "") + CLOSE


def is_marked(text: str) -> bool:
    """Whether a text holds a value that only the run knows."""
    return OPEN in text


def marks(text: str) -> list[str]:
    """Return the names of the unknown values in a text, as a script writes them."""
    return [name if name[:1] in "$`" else f"${name}" for name in MARK.findall(text)]


def plain(text: str) -> str:
    """Return a text with its marks written as the script writes them."""
    return MARK.sub(lambda m: m[1] if m[1][:1] in "$`" else f"${m[1]}", text)


def resolve(ref: Ref, known: Mapping[str, Value], depth: int) -> Value:
    """Return what a reference stands for, or a mark."""
    bare = re.sub(r"\[[@*]\]\Z", "", ref.name)
    value = known.get(bare) if ref.known_form else None
    if ref.operator in (":-", "-", ":=", "=") and not value:
        return text_of(ref.default, known, depth + 1)
    if ref.operator in (":+", "+"):
        return text_of(ref.default, known, depth + 1) if value else mark(ref.name)
    return mark(ref.name) if value is None else value


def text_of(raw: str, known: Mapping[str, Value], depth: int) -> str:
    """Return the expansion of a default such as ``${TP:-$SIZE}``."""
    if "$" not in raw and "\\" not in raw and "'" not in raw and '"' not in raw:
        return raw
    if depth > DEPTH:
        return mark(raw)
    lexer = Lexer(raw)
    text = ""
    while lexer.pos < len(raw):
        before = lexer.pos
        text += "".join(t.text for t in expand(lexer.word(), known, 0, depth))
        if lexer.pos == before:
            text += raw[lexer.pos]
            lexer.pos += 1
    return text


class Builder:
    """Collects the characters of one token."""

    def __init__(self) -> None:
        self.text, self.quotes = "", ""
        self.at: list[int] = []

    def add(self, text: str, at: tuple[int, ...], quote: str) -> None:
        """Add characters of one kind of quoting."""
        self.text += text
        self.at.extend(at)
        self.quotes += (quote or " ") * len(text)

    def token(self, word: Word, line: int, open_: bool = False) -> Token:
        """Return the token collected so far and begin anew."""
        made = Token(self.text, line, word.start, word.end, tuple(self.at), self.quotes, open_)
        self.text, self.at, self.quotes = "", [], ""
        return made


def expand(word: Word, known: Mapping[str, Value], line: int, depth: int = 0) -> list[Token]:
    """Return the tokens of a word: none, one or, for lists and unquoted values, several."""
    built = Builder()
    tokens: list[Token] = []
    for piece in word.pieces:
        if piece.ref is None:
            built.add(piece.text, piece.at, piece.quote)
            continue
        value = resolve(piece.ref, known, depth)
        if isinstance(value, tuple):
            if built.text:
                tokens.append(built.token(word, line))
            tokens += value
        elif piece.quote or not re.search(r"\s", MARK.sub("", value)):
            built.add(value, (-1,) * len(value), piece.quote)
        else:
            fields = value.split()
            for text in fields[:-1]:
                built.add(text, (-1,) * len(text), "")
                tokens.append(built.token(word, line))
            if fields:
                built.add(fields[-1], (-1,) * len(fields[-1]), "")
    listed = any(p.ref and isinstance(resolve(p.ref, known, depth), tuple) for p in word.pieces)
    if built.text or (not listed and any(piece.quote for piece in word.pieces)):
        tokens.append(built.token(word, line, is_open(word.pieces, built.text)))
    return tokens


def is_open(pieces: list[Piece], text: str) -> bool:
    """Whether a token is one reference that may hold any number of arguments."""
    refs = [piece.ref for piece in pieces if piece.ref]
    if not refs or len([p for p in pieces if p.text or p.ref]) != 1 or not is_marked(text):
        return False
    return bool(MANY.fullmatch(refs[0].name)) and (
        not pieces[-1].quote or refs[0].name in "@*" or "[" in refs[0].name
    )
