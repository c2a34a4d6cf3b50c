"""Shell text to commands and words, each character with its place in the source.

A reader of its own, because a rewrite must be byte-exact: ``shlex`` drops lines,
quotes and offsets, and ``bashlex`` is GPL-3 and gives up on a whole file. This one
never gives up: what it can't read becomes a :class:`Problem` with its line, and the
rest is read.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

__all__ = ["Command", "Lexer", "Piece", "Problem", "Ref", "Word"]

PLAIN = re.compile(r"[^\s\\'\"$`;&|()<>]+")
REDIRECT = re.compile(r"(?:\d+|&)?(<<-|<<<|<<|>>|>\||>&|<&|<>|>|<)")
NAME = re.compile(r"[A-Za-z_]\w*")
BRACE = re.compile(r"([A-Za-z_]\w*|\d+|[@*#?$!-])(\[[^\]]*\])?(?:(:?[-=+?])(.*))?\Z", re.DOTALL)
ARRAY = re.compile(r"[A-Za-z_]\w*\+?=\Z")
BAD_CONTINUATION = re.compile(r"\\[ \t]+\r?\n")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


@dataclass(frozen=True)
class Problem:
    """Something a shell would not read as its author meant; ``kind`` names it."""

    kind: str
    line: int
    message: str


@dataclass(frozen=True)
class Ref:
    """A variable or a substitution inside a word; ``name`` is what to show of it."""

    name: str
    operator: str = ""
    default: str = ""
    known_form: bool = True


@dataclass(frozen=True)
class Piece:
    """A run of characters under one kind of quoting, or one reference.

    ``at`` holds the source offset of each character; ``quote`` is ``'``, ``"``,
    a backslash or ``""``.
    """

    text: str
    quote: str
    at: tuple[int, ...]
    ref: Ref | None = None


@dataclass
class Word:
    """One word before expansion; ``items`` are the elements of an array assignment."""

    start: int
    end: int
    pieces: list[Piece] = field(default_factory=list)
    items: list[Word] | None = None

    @property
    def bare(self) -> str:
        """The unquoted text that the word begins with."""
        return self.pieces[0].text if self.pieces and not self.pieces[0].quote else ""


@dataclass
class Command:
    """One simple command with the source span of its words.

    ``cut`` is the line of a comment that ended the command although a backslash
    continued it.
    """

    words: list[Word]
    start: int
    end: int
    cut: int = 0


class Lexer:
    """Reads a whole script; ``problems`` fills up on the way."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.problems: list[Problem] = []
        self.starts = [0] + [m.end() for m in re.finditer("\n", text)]
        self._heredocs: list[tuple[str, bool]] = []
        self._long_quote = 0

    def line(self, offset: int) -> int:
        """Return the 1-based line of a source offset."""
        return bisect_right(self.starts, offset)

    def problem(self, kind: str, offset: int, message: str) -> None:
        """Note something that a shell would read otherwise."""
        self.problems.append(Problem(kind, self.line(offset), message))

    def commands(self) -> list[Command]:
        """Return every simple command, in source order."""
        found = []
        while self.pos < len(self.text):
            before = self.pos
            command = self.command()
            if command.words:
                found.append(command)
            if self.pos == before:
                self.pos += 1
        return found

    def command(self) -> Command:
        """Read up to and including the operator or newline that ends a command."""
        start = self.pos
        words: list[Word] = []
        continued, cut = False, 0
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char in " \t\r\f\v":
                self.pos += 1
            elif char == "\n":
                self.end_of_line()
                break
            elif self.continuation():
                continued = True
            elif char == "#":
                cut = self.line(self.pos) if continued and words else 0
                self.skip_comment()
            elif (redirect := REDIRECT.match(self.text, self.pos)) and self.is_redirect(redirect):
                self.redirect(redirect)
            elif char in ";&|()":
                self.pos += 1
                break
            elif char.isspace():
                # Pasted from a web page: the shell would take it for a letter.
                self.problem(
                    "odd-space", self.pos, "a no-break or other odd space, no blank to a shell"
                )
                self.pos += 1
            else:
                words.append(self.word())
                continued = False
        span = (words[0].start, words[-1].end) if words else (start, start)
        return Command(words, *span, cut)

    def end_of_line(self) -> None:
        """Step over a newline and the here-documents that begin after it."""
        self.pos += 1
        for delimiter, tabs in self._heredocs:
            while self.pos < len(self.text):
                end = self.text.find("\n", self.pos)
                end = len(self.text) if end < 0 else end
                row = self.text[self.pos : end].rstrip("\r")
                self.pos = min(end + 1, len(self.text))
                if (row.lstrip("\t") if tabs else row) == delimiter:
                    break
        self._heredocs.clear()

    def continuation(self) -> bool:
        """Step over a backslash at the end of a line; one with blanks behind it is noted."""
        for newline in ("\\\n", "\\\r\n"):
            if self.text.startswith(newline, self.pos):
                self.pos += len(newline)
                return True
        if bad := BAD_CONTINUATION.match(self.text, self.pos):
            self.problem(
                "blank-after-backslash",
                self.pos,
                "blanks follow the backslash, so the shell ends the command here",
            )
            self.pos = bad.end()
            return True
        return False

    def skip_comment(self) -> None:
        """Step to the end of the line."""
        end = self.text.find("\n", self.pos)
        self.pos = len(self.text) if end < 0 else end

    def is_redirect(self, match: re.Match[str]) -> bool:
        """Whether a match is a redirection: ``&`` counts only in ``&>``."""
        return not match.group().startswith("&") or match.group()[1] == ">"

    def redirect(self, match: re.Match[str]) -> None:
        """Step over a redirection and its target; remember a here-document."""
        self.pos = match.end()
        if match.group(1) in ("<", ">") and self.text.startswith("(", self.pos):
            self.pos = self.balanced(self.pos, "(", ")")
            return
        while self.text[self.pos : self.pos + 1] in (" ", "\t"):
            self.pos += 1
        if self.text[self.pos : self.pos + 1] in ("", "\n", ";", "&", "|", "(", ")", "<", ">"):
            return
        target = self.word()
        if match.group(1) in ("<<", "<<-"):
            delimiter = "".join(piece.text for piece in target.pieces)
            self._heredocs.append((delimiter, match.group(1) == "<<-"))

    def word(self) -> Word:
        """Read one word, with everything that quotes or expands inside it."""
        word = Word(self.pos, self.pos)
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if run := PLAIN.match(self.text, self.pos):
                self.add(word, run.group(), "", run.start())
                self.pos = run.end()
            elif char == "\\":
                if not self.escape(word):
                    break
            elif char == "'":
                self.single(word, self.pos + 1)
            elif char == '"':
                self.double(word)
            elif char in "$`":
                self.reference(word, "")
            elif char == "(" and len(word.pieces) == 1 and ARRAY.match(word.bare):
                self.array(word)
            else:
                break
        word.end = self.pos
        return word

    def add(self, word: Word, text: str, quote: str, start: int) -> None:
        """Add a run of characters that stand one after the other in the source."""
        word.pieces.append(Piece(text, quote, tuple(range(start, start + len(text)))))

    def escape(self, word: Word) -> bool:
        """Read a backslash outside quotes; False where it continues the line."""
        following = self.text[self.pos + 1 : self.pos + 2]
        if self.text.startswith(("\\\n", "\\\r\n"), self.pos):
            # Inside a word a continuation joins; after it the word may go on.
            self.pos += 2 if following == "\n" else 3
            return self.text[self.pos : self.pos + 1] not in (" ", "\t", "")
        if BAD_CONTINUATION.match(self.text, self.pos):
            return False
        if following:
            self.add(word, following, "\\", self.pos + 1)
        self.pos += 2
        self.pos = min(self.pos, len(self.text))
        return True

    def unclosed(self, offset: int) -> int:
        """Note a quote that never closes; return where to read on: the end of its line."""
        hint = f"; the one that opens on line {self._long_quote} spans lines, look there first"
        self.problem(
            "unclosed-quote",
            offset,
            f"this quote is never closed{hint if self._long_quote else ''}",
        )
        end = self.text.find("\n", offset)
        return len(self.text) if end < 0 else end

    def single(self, word: Word, start: int) -> None:
        """Read single-quoted text; ``start`` is behind the opening quote."""
        end = self.text.find("'", start)
        if end < 0:
            self.pos = self.unclosed(start - 1)
            self.add(word, self.text[start : self.pos], "'", start)
            return
        if re.search(r"\n\s*--?\w", self.text[start:end]):
            self._long_quote = self.line(start)
        self.add(word, self.text[start:end], "'", start)
        self.pos = end + 1

    def double(self, word: Word) -> None:
        """Read double-quoted text with its escapes and references."""
        opening = self.pos
        self.pos += 1
        self.add(word, "", '"', self.pos)
        kept = len(word.pieces)
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char == '"':
                self.pos += 1
                return
            following = self.text[self.pos + 1 : self.pos + 2]
            if char == "\\" and following in ('"', "\\", "$", "`", "\n"):
                if self.text[self.pos + 1] != "\n":
                    self.add(word, self.text[self.pos + 1], '"', self.pos + 1)
                self.pos += 2
            elif char in "$`":
                self.reference(word, '"')
            else:
                run = re.compile(r"[^\"\\$`]+|\\").match(self.text, self.pos)
                assert run is not None
                self.add(word, run.group(), '"', self.pos)
                self.pos = run.end()
        del word.pieces[kept:]
        self.pos = self.unclosed(opening)
        self.add(word, self.text[opening + 1 : self.pos], '"', opening + 1)

    def array(self, word: Word) -> None:
        """Read the elements of ``NAME=( … )``."""
        opening = self.pos
        self.pos += 1
        word.items = []
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char == ")":
                self.pos += 1
                return
            if char.isspace():
                self.pos += 1
            elif char == "#":
                self.skip_comment()
            elif not self.continuation():
                before = self.pos
                word.items.append(self.word())
                self.pos += self.pos == before
        self.problem("unclosed-bracket", opening, "this bracket is never closed")

    def balanced(self, start: int, opening: str, closing: str) -> int:
        """Return the offset behind the bracket that closes the one at ``start``."""
        depth, at = 0, start
        while at < len(self.text):
            char = self.text[at]
            if char == "\\":
                at += 1
            elif char == "'" and opening == "(":
                end = self.text.find("'", at + 1)
                at = end if end > 0 else at
            elif char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if depth == 0:
                    return at + 1
            at += 1
        self.problem("unclosed-bracket", start, "this bracket is never closed")
        end = self.text.find("\n", start)
        return len(self.text) if end < 0 else end

    def reference(self, word: Word, quote: str) -> None:
        """Read what a ``$`` or a backtick begins."""
        start = self.pos
        following = self.text[start + 1 : start + 2]
        if self.text[start] == "`":
            end = self.text.find("`", start + 1)
            self.pos = end + 1 if end > 0 else self.unclosed(start)
            self.add_ref(word, quote, start, Ref(self.text[start : self.pos], known_form=False))
        elif following == "(":
            self.pos = self.balanced(start + 1, "(", ")")
            self.add_ref(word, quote, start, Ref(self.text[start : self.pos], known_form=False))
        elif following == "{":
            self.pos = self.balanced(start + 1, "{", "}")
            self.add_ref(word, quote, start, brace_ref(self.text[start + 2 : self.pos - 1]))
        elif name := NAME.match(self.text, start + 1):
            self.pos = name.end()
            self.add_ref(word, quote, start, Ref(name.group()))
        elif following and following in "0123456789@*#?$!-":
            self.pos = start + 2
            self.add_ref(word, quote, start, Ref(following))
        elif following == "'" and not quote:
            self.ansi(word)
        else:
            self.add(word, "$", quote, start)
            self.pos = start + 1

    def add_ref(self, word: Word, quote: str, start: int, ref: Ref) -> None:
        """Add a reference as a piece of its own."""
        word.pieces.append(Piece("", quote, (start,), ref))

    def ansi(self, word: Word) -> None:
        """Read ``$'…'`` with the common escapes."""
        match = re.compile(r"\$'((?:[^'\\]|\\.)*)'", re.DOTALL).match(self.text, self.pos)
        if not match:
            self.single(word, self.pos + 2)
            return
        text = re.sub(r"\\(.)", lambda m: ESCAPES.get(m[1], m[0]), match[1], flags=re.DOTALL)
        self.pos = match.end()
        word.pieces.append(Piece(text, "'", (-1,) * len(text)))


def brace_ref(inner: str) -> Ref:
    """Return the reference that stands between ``${`` and ``}``."""
    match = BRACE.match(inner)
    if not match:
        return Ref("${" + inner + "}", known_form=False)
    name, index, operator, default = match.groups()
    return Ref(name + (index or ""), operator or "", default or "")
