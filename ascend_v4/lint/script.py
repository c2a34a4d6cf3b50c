"""A shell script, pasted command or ``.env`` file as the launches it would start.

Only what decides a launch is followed: assignments, exports, ``env``, containers,
nested ``bash -c``. Nothing is run and no other file is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .expand import Token, Value, expand, is_marked, mark
from .lexer import Command, Lexer, Problem, Word

__all__ = ["Found", "Script", "Spot", "read_script"]

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?=)")
DOTENV = re.compile(r"^[ \t]*([A-Za-z_]\w*)=(.*?)[ \t\r]*$", re.MULTILINE)
KEYWORDS = {"then", "do", "else", "elif", "if", "while", "until", "!", "time", "{", "}"}
DEEPER, SHALLOWER = {"if", "for", "while", "until", "case", "select"}, {"fi", "done", "esac"}
DECLARING = {"export", "declare", "typeset", "readonly", "local"}
CONTAINERS = {"docker", "podman", "nerdctl", "ssh", "kubectl", "ctr"}
#: Commands that only mention a launch.
MENTIONING = {"echo", "printf", "grep", "pgrep", "pkill", "which", "man", "ps", "type", "alias"}
MODULES = {"vllm.entrypoints.openai.api_server": 2, "vllm.entrypoints.cli.main": 3}
NESTED = re.compile(r"\bvllm\s+serve\b|vllm\.entrypoints\.")


@dataclass(frozen=True)
class Spot:
    """A variable's value and where it was set.

    ``start`` to ``end`` spans the assignment (with its ``-e``, in a container), ``whole``
    the command when it holds nothing else; -1 where the text can't be rewritten in
    place. ``branch`` is set inside ``if``, ``for`` and ``case``.
    """

    value: str
    line: int
    start: int = -1
    end: int = -1
    whole: tuple[int, int] | None = None
    branch: bool = False


@dataclass
class Found:
    """One launch as the script writes it: its variables and the arguments behind ``serve``."""

    env: dict[str, Spot]
    args: list[Token]
    line: int
    style: str
    start: int = -1
    end: int = -1
    image: str = ""
    cut: list[int] = field(default_factory=list)


@dataclass
class Script:
    """Everything the reader found. ``exported`` are the variables set at the end."""

    text: str
    launches: list[Found] = field(default_factory=list)
    exported: dict[str, Spot] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    sourced: list[tuple[str, int]] = field(default_factory=list)

    def line_text(self, line: int) -> str:
        """Return the text of a 1-based line, trimmed, or ``""``."""
        lines = self.text.split("\n")
        return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def read_script(text: str, name: str = "-") -> Script:
    """Return the launches of a text; never raises, whatever the text is.

    A ``.env`` file's assignments count as exported, as docker and systemd take them.
    """
    clean = text.replace("\ue000", "?").replace("\ue001", "?")
    script = Script(clean)
    dotenv = name.endswith(".env") or name.rsplit("/", 1)[-1].startswith(".env")
    if dotenv and not re.search(r"^\s*export\s", clean, re.MULTILINE):
        read_dotenv(script)
    else:
        Reader(script, allexport=dotenv).read(clean, 1, editable=True)
    return script


def read_dotenv(script: Script) -> None:
    """Read ``NAME=value`` lines without shell quoting rules."""
    lexer = Lexer(script.text)
    for match in DOTENV.finditer(script.text):
        value = match[2]
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        span = (match.start(1), match.end(2))
        script.exported[match[1]] = Spot(value, lexer.line(span[0]), *span, span)


class Reader:
    """Walks the commands of a script and follows its variables."""

    def __init__(self, script: Script, allexport: bool = False) -> None:
        self.script = script
        self.known: dict[str, Value] = {}
        self.spots: dict[str, Spot] = {}
        self.env: dict[str, Spot] = script.exported
        self.allexport = allexport
        self.depth = 0
        self.nesting = 0
        self.lexer = Lexer("")
        self.base = 0
        self.editable = True

    def read(self, text: str, first_line: int, *, editable: bool) -> None:
        """Read a text whose first line has a number; offsets count only when editable."""
        outer = (self.lexer, self.base, self.editable)
        self.lexer, self.base, self.editable = Lexer(text), first_line - 1, editable
        commands = self.lexer.commands()
        self.script.problems += [
            Problem(p.kind, p.line + self.base, p.message) for p in self.lexer.problems
        ]
        for command in commands:
            self.run(command)
        self.lexer, self.base, self.editable = outer

    def line(self, offset: int) -> int:
        """Return the line in the whole script of an offset in the text being read."""
        return self.lexer.line(offset) + self.base

    def run(self, command: Command) -> None:
        """Follow one command."""
        words = self.strip_keywords(command.words)
        count = 0
        while count < len(words) and self.assignment(words[count]):
            count += 1
        inline, rest = words[:count], words[count:]
        if not rest:
            for word in inline:
                self.assign(word, command, exported=self.allexport)
            return
        head = rest[0].bare if len(rest[0].pieces) == 1 else ""
        if head in DECLARING:
            self.declare(head, rest[1:], command)
        elif head == "unset":
            for word in rest[1:]:
                self.forget(word.bare)
        elif head == "set":
            self.set_options(rest[1:])
        elif head in ("source", "."):
            self.sourced(rest[1:])
        elif head in ("for", "select", "read", "mapfile", "readarray", "getopts"):
            for word in rest[1:]:
                if re.fullmatch(r"[A-Za-z_]\w*", word.bare):
                    self.known[word.bare] = mark(word.bare)
        else:
            self.launch(inline, rest, command)

    def strip_keywords(self, words: list[Word]) -> list[Word]:
        """Return the words behind shell keywords, and keep track of the nesting."""
        while words:
            head = words[0].bare if len(words[0].pieces) == 1 else ""
            self.depth += (head in DEEPER) - (head in SHALLOWER)
            if head not in KEYWORDS | SHALLOWER:
                break
            words = words[1:]
        return words

    def assignment(self, word: Word) -> re.Match[str] | None:
        """Return the match of ``NAME=`` at a word's unquoted beginning."""
        return ASSIGNMENT.match(word.bare)

    def value_of(self, word: Word) -> Value:
        """Return what an assignment word assigns."""
        match = self.assignment(word)
        assert match is not None
        if word.items is not None:
            items: list[Token] = []
            for item in word.items:
                items += expand(item, self.known, self.line(item.start))
            return tuple(items)
        quoted = [p for p in word.pieces if p.ref or p.text or p.quote]
        text = "".join(t.text for t in expand(joined(word), self.known, 0)) if quoted else ""
        return text[match.end() :]

    def assign(self, word: Word, command: Command, *, exported: bool) -> None:
        """Carry out one assignment. Where branches disagree the value is unknown."""
        match = self.assignment(word)
        assert match is not None
        name, value = match[1], self.value_of(word)
        old = self.known.get(name)
        if match[2] == "+=" and old is not None:
            value = old + value if isinstance(old, str) and isinstance(value, str) else value
            if isinstance(old, tuple) and isinstance(value, tuple):
                value = old + value
        elif self.depth > 0 and old not in (None, value):
            value = mark(name)
        self.known[name] = value
        self.spots[name] = self.spot(word, value, command)
        if exported or name in self.env:
            self.env[name] = self.spots[name]

    def spot(self, word: Word, value: Value, command: Command | None) -> Spot:
        """Return where an assignment stands."""
        text = value if isinstance(value, str) else " ".join(t.text for t in value)
        if not self.editable:
            return Spot(text, self.line(word.start))
        whole = None
        if command and sum(bool(self.assignment(w)) for w in command.words) == 1:
            # A keyword in front (`then export A=1`) stays.
            first = next(w for w in command.words if w.bare not in KEYWORDS)
            whole = (first.start, command.end)
        return Spot(text, self.line(word.start), word.start, word.end, whole, self.depth > 0)

    def declare(self, head: str, words: list[Word], command: Command) -> None:
        """Carry out ``export`` and its relatives."""
        options = "".join(w.bare[1:] for w in words if w.bare.startswith("-"))
        exporting = head == "export" or "x" in options or self.allexport
        for word in words:
            if self.assignment(word):
                self.assign(word, command, exported=exporting and "n" not in options)
            elif word.bare.startswith("-") or not word.bare:
                continue
            elif head == "export" and "n" in options:
                self.env.pop(word.bare, None)
            elif exporting:
                known = self.spots.get(word.bare)
                self.env[word.bare] = known or Spot(mark(word.bare), self.line(word.start))

    def forget(self, name: str) -> None:
        """Carry out ``unset NAME``."""
        for table in (self.known, self.spots, self.env):
            table.pop(name, None)

    def set_options(self, words: list[Word]) -> None:
        """Follow ``set -a`` and give the positional parameters of ``set -- …`` up."""
        for word in words:
            if word.bare in ("-a", "+a"):
                self.allexport = word.bare == "-a"

    def sourced(self, words: list[Word]) -> None:
        """Note a file that the script reads and we don't."""
        for word in words[:1]:
            tokens = expand(word, self.known, self.line(word.start))
            self.script.sourced.append((" ".join(t.text for t in tokens), self.line(word.start)))

    def launch(self, inline: list[Word], words: list[Word], command: Command) -> None:
        """Look for a launch in a command, also inside a container or ``bash -c``."""
        tokens: list[Token] = []
        for word in words:
            tokens += expand(word, self.known, self.line(word.start))
        if not tokens or tokens[0].text.rsplit("/", 1)[-1] in MENTIONING:
            return
        if command.words[0].bare.startswith("--") and self.script.launches:
            self.stray(tokens, command)
            return
        env = dict(self.env)
        for word in inline:
            match = self.assignment(word)
            assert match is not None
            env[match[1]] = self.spot(word, self.value_of(word), None)
        begin = find_engine(tokens)
        prefix = tokens if begin is None else tokens[: begin[0]]
        env = env_of_prefix(prefix, env, self.editable)
        if begin is None:
            self.nested(tokens, env)
            return
        end = command.end if self.editable else -1
        start = command.start if self.editable else -1
        cut = [command.cut] if command.cut else []
        found = Found(env, tokens[begin[0] :], tokens[0].line, begin[1], start, end, "", cut)
        found.line = tokens[begin[0] - 1].line
        found.image = image_of(prefix)
        self.script.launches.append(found)

    def stray(self, tokens: list[Token], command: Command) -> None:
        """Give arguments that a broken continuation cut off back to their launch."""
        found = self.script.launches[-1]
        found.args += tokens
        if tokens[0].line not in found.cut:
            found.cut.append(tokens[0].line)
        if self.editable:
            found.end = command.end

    def nested(self, tokens: list[Token], env: dict[str, Spot]) -> None:
        """Read the scripts that stand inside arguments (``bash -c``, ``docker exec``, ``ssh``)."""
        if self.nesting > 3:
            return
        for token in tokens:
            if NESTED.search(token.text) and re.search(r"\s", token.text):
                outer = (self.env, dict(self.known), self.depth)
                self.env, self.depth = dict(env), 0
                self.nesting += 1
                self.read(token.text, token.line, editable=False)
                self.nesting -= 1
                self.env, self.known, self.depth = outer


def joined(word: Word) -> Word:
    """Return the word with every reference quoted: an assignment never splits."""
    from dataclasses import replace

    pieces = [replace(p, quote=p.quote or '"') if p.ref else p for p in word.pieces]
    return Word(word.start, word.end, pieces)


def find_engine(tokens: Sequence[Token]) -> tuple[int, str] | None:
    """Return the index of the first argument of an engine in a command, and its style."""
    texts = [token.text for token in tokens]
    for index, text in enumerate(texts):
        following = texts[index + 1] if index + 1 < len(texts) else ""
        base = text.rsplit("/", 1)[-1]
        if base == "vllm" and following == "serve":
            return index + 2, "serve"
        if text == "-m" and following in MODULES:
            past = index + MODULES[following]
            return past, "api" if past == index + 2 else "serve"
        if text.endswith("vllm/entrypoints/openai/api_server.py"):
            return index + 1, "api"
        if "vllm-openai" in base and texts[0] in CONTAINERS:
            return index + 1, "serve"
    return None


def env_of_prefix(prefix: Sequence[Token], env: dict[str, Spot], editable: bool) -> dict[str, Spot]:
    """Return the environment behind ``env A=1`` and ``docker run -e A=1``."""
    names = [token.text.rsplit("/", 1)[-1] for token in prefix]
    contained = next((i for i, name in enumerate(names) if name in CONTAINERS), None)
    seen = {} if contained is not None else env
    for index, token in enumerate(prefix):
        before = prefix[index - 1].text if index else ""
        text, offset = token.text, 0
        for option in ("--env=", "-e"):
            if contained is not None and text.startswith(option) and len(text) > len(option):
                offset = len(option)
                break
        match = ASSIGNMENT.match(text, offset)
        if match and (offset or before in ("-e", "--env") or "env" in names[:index]):
            begin = token if offset or contained is None else prefix[index - 1]
            span = (begin.start, token.end) if editable else (-1, -1)
            seen[match[1]] = Spot(text[match.end() :], token.line, *span)
        elif before in ("-e", "--env") and contained is not None and text in env:
            seen[text] = env[text]
        elif before in ("-u", "--unset") and contained is None:
            seen.pop(text, None)
        elif text in ("-i", "--ignore-environment") and "env" in names[:index] and not contained:
            seen = {}
    return seen


def image_of(prefix: Sequence[Token]) -> str:
    """Return the container image of a command prefix, or ``""``."""
    for token in prefix:
        if re.search(r"vllm[\w.-]*:[\w.-]+\Z", token.text) and not is_marked(token.text):
            return token.text
    return ""
