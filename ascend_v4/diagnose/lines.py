"""One log line without its wrapping: prefixes of Kubernetes and ranks, colour, and its time.

A line may carry two times: its own (vLLM, plog, glog, Python logging) and that of what
collected it (Kubernetes, docker, journald). The own one counts, because ranks are
compared by it; the other serves where there is none. Times are seconds of a naive local
clock; hosts whose clocks differ can't be told apart here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Line", "clean", "parse_line"]

ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))|[\x00\x07\x08]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CLOCK = r"(?P<h>[0-2]\d):(?P<mi>[0-5]\d):(?P<s>[0-6]\d)(?:[.,](?P<f>\d{1,9}))?"
_DATE = r"(?P<y>\d{4})-(?P<mo>\d\d)-(?P<d>\d\d)"
_NAMED = rf"(?P<mon>{'|'.join(_MONTHS)})\s+(?P<d>\d{{1,2}})"

#: Wrappings, each stripped when it stands first; those with a clock give the outer time.
_WRAPS = (
    re.compile(rf"{_DATE}T{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?\s+(?:std(?:out|err)\s+[FP]\s)?"),
    re.compile(rf"{_NAMED}\s+{_CLOCK}\s+\S+\s+[^\s:]+(?:\[\d+\])?:\s"),
    re.compile(rf"\[(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\s+{_NAMED}\s+{_CLOCK}\s+(?P<y>\d{{4}})\]\s"),
    re.compile(r"\[pod/[^\]\s]+\]\s"),
    re.compile(r"[\w.-]{1,80}\s{1,40}\|\s"),
    re.compile(r"\[\s*\d{1,9}\.\d{6}\]\s"),
    re.compile(
        r"(?P<rank>\((?:Worker|EngineCore|APIServer|ApiServer|DPCoordinator|Ray\w+)[^()]{0,60}\))\s*"
    ),
    re.compile(r"(?P<rank>\[rank\d{1,5}\]):\s?"),
)
#: Times that the program itself printed, looked for at the beginning of the bare line.
_OWN = (
    re.compile(rf"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+(?P<mo>\d\d)-(?P<d>\d\d)\s+{_CLOCK}"),
    re.compile(
        rf"(?:\[[A-Z]+\]\s?\w+\(\d+,[^)]*\):|\[PID:\s?\d+\]\s){_DATE}-(?P<h>\d\d):(?P<mi>\d\d):"
        r"(?P<s>\d\d)\.(?P<f>\d{3})"
    ),
    re.compile(rf"\[?[DIWEF](?P<mo>\d{{1,2}}?)(?P<d>\d\d)\s{_CLOCK}"),
    re.compile(rf"\[?{_DATE}[ T]{_CLOCK}"),
)


@dataclass(frozen=True)
class Line:
    """The bare text, its own time and the collector's in seconds, and the rank that wrote it."""

    text: str
    own: float | None
    outer: float | None
    rank: str = ""


def clean(raw: bytes | str) -> str:
    """Return a line as text without colour and control characters; never raises."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return ANSI.sub("", text).rstrip("\r\n") if "\x1b" in text or "\0" in text else text.rstrip()


def parse_line(raw: bytes | str, year: int) -> Line:
    """Return a line without its wrapping; ``year`` completes times that name none.

    Never raises: what isn't understood stays in the text.
    """
    text, outer = unwrap_json(clean(raw), year)
    rank = ""
    for _ in range(6):
        match = next((m for wrap in _WRAPS if (m := wrap.match(text))), None)
        if match is None:
            break
        found = match.groupdict()
        rank = found.get("rank") or rank
        outer = seconds(found, year) if "h" in found and outer is None else outer
        text = text[match.end() :]
    own = next((m for stamp in _OWN if (m := stamp.match(text))), None)
    when = seconds(own.groupdict(), year) if own else None
    return Line(text, when, outer, rank.strip("()[]"))


def unwrap_json(text: str, year: int) -> tuple[str, float | None]:
    """Return the line inside docker's json-file format and its time, else the text as it is."""
    if not text.startswith('{"log":'):
        return text, None
    try:
        held = json.loads(text)
        line, time = str(held["log"]), str(held.get("time", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return text, None
    match = _WRAPS[0].match(time + " ")
    return clean(line), seconds(match.groupdict(), year) if match else None


def seconds(found: dict[str, str | None], year: int) -> float | None:
    """Return the time of matched groups in seconds since 1970, or None for an impossible one."""
    month = found.get("mo")
    number = int(month) if month else _MONTHS.index(str(found.get("mon"))) + 1
    try:
        day = datetime(int(found.get("y") or year), number, int(str(found["d"])))
    except ValueError:
        return None
    clock = int(str(found["h"])) * 3600 + int(str(found["mi"])) * 60 + int(str(found["s"]))
    fraction = float(f"0.{found['f']}") if found.get("f") else 0.0
    return (day - datetime(1970, 1, 1)).total_seconds() + clock + fraction
