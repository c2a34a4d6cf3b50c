"""Lint: every finding on somebody else's script, with file and line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ascend_v4.catalog.load import Catalog, Row
from ascend_v4.core.finding import Evidence, Finding, worst_first
from ascend_v4.render.shell import spans

from .known import entries, live_names
from .launches import Launched, broken_json, locate, read_launch
from .names import Names
from .script import Found, Script, read_script
from .target import OF_CHECKPOINT, Target, target_of
from .three import UNKNOWN, find, paths_of
from .verdict import FLAG_OF_FACT, Verdict, judge_launch, refused

__all__ = ["launches_of", "lint_script", "lint_text"]

BASH = "https://www.gnu.org/software/bash/manual/bash.html"
SERVE = "https://docs.vllm.ai/en/latest/cli/serve/"
FIXES = {
    "unclosed-quote": "close the quote",
    "unclosed-bracket": "close the bracket",
    "odd-space": "type the blank anew",
    "blank-after-backslash": "remove the blanks behind the backslash",
}
#: Scripts whose variables no rule asks for.
USUAL_SOURCES = ("set_env.sh", "activate", ".bashrc", ".profile")
#: Longest value that a message shows whole, in characters.
SHOWN = 60


def lint_text(
    text: str,
    name: str,
    engine: str | None,
    version: str | None,
    chip: str | None,
    catalog: Catalog,
    model: str | None = None,
) -> list[Finding]:
    """Return the findings on a script, worst first.

    ``name`` is what evidence calls the file (``-`` for stdin). Raises AscendV4Error
    (usage) for a release, chip or model that the catalog doesn't know; never for
    anything in the text.
    """
    target = target_of(catalog, engine, version, chip, model)
    return lint_script(read_script(text, name), name, target)


def lint_script(script: Script, name: str, target: Target) -> list[Finding]:
    """Return the findings on a script that has been read, worst first."""
    report = Report(script, name, target, Names.of(target.engine, target.catalog))
    launches = launches_of(script)
    found = [*target.subject.notes, *report.shell(), *report.nothing()]
    for launched in launches:
        found += report.launch(launched)
    for launched in {repr(report.switches(x)): x for x in reversed(launches)}.values():
        found += report.other_release(launched)
    return worst_first(merge(found))


def launches_of(script: Script) -> list[Launched]:
    """Return the launches of a script; bare exports count as one whose flags are unknown."""
    if script.launches or not script.exported:
        return [read_launch(found) for found in script.launches]
    launched = read_launch(Found(script.exported, [], 0, "env"))
    launched.open_args.append("the arguments of the launch")
    return [launched]


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with those that several launches share said once."""
    said: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.id, finding.message)
        if key in said:
            both = dict.fromkeys([*said[key].evidence, *finding.evidence])
            said[key] = replace(said[key], evidence=tuple(both))
        else:
            said[key] = finding
    return list(said.values())


def in_script(path: str, facts: dict[str, Any]) -> bool:
    """Whether a path is unknown because of what the script says."""
    path = FLAG_OF_FACT.get(path, path)
    return path.startswith(("env.", "flag.")) and find(facts, path) is UNKNOWN


def uses_model(rule: Row) -> bool:
    """Whether a rule asks what the checkpoint is."""
    return bool({*paths_of(rule["condition"]), *rule.get("applies", {})} & set(OF_CHECKPOINT))


@dataclass(frozen=True)
class Report:
    """Turns verdicts into findings that say where."""

    script: Script
    name: str
    target: Target
    names: Names

    def at(self, *lines: int) -> tuple[Evidence, ...]:
        """Return evidence for line numbers, each once; 0 is left out."""
        seen = dict.fromkeys(line for line in lines if line)
        return tuple(Evidence(self.name, n, self.script.line_text(n)) for n in seen)

    def switches(self, launched: Launched) -> list[tuple[str, Any]]:
        """Return the paths of a launch that the catalog knows, with their values."""
        return [(path, value) for path, value in entries(launched) if path in self.names.rows]

    def shell(self) -> list[Finding]:
        """Return what a shell would read otherwise than the author meant."""
        found = [
            Finding(p.kind, "error", p.message, FIXES[p.kind], BASH, "stated", self.at(p.line))
            for p in self.script.problems
        ]
        for path, line in self.script.sourced:
            if not path.endswith(USUAL_SOURCES):
                text = f"{path} is not read, so variables that it sets are not seen here"
                proof = self.at(line)
                found.append(
                    Finding("not-read", "info", text, "lint it too", BASH, "stated", proof)
                )
        return found

    def nothing(self) -> list[Finding]:
        """Return a warning where there is nothing to judge."""
        if self.script.launches or self.script.exported:
            return []
        text = f"{self.name} holds no `vllm serve`, no `python -m vllm.entrypoints…` and no exports"
        return [
            Finding("no-launch", "warn", text, "name the script that launches the server", BASH)
        ]

    def launch(self, launched: Launched) -> list[Finding]:
        """Return every finding on one launch, with its lines."""
        verdict = judge_launch(launched, self.target, self.names)
        found = []
        for finding, paths in verdict.findings:
            lines = [line for path in paths if (line := locate(launched, path))]
            proof = self.at(*(lines or [launched.found.line]))
            found.append(replace(finding, evidence=proof))
        found += self.not_json(launched)
        found += self.arguments(launched)
        found += self.image(launched)
        return found + self.unknown(launched, verdict)

    def not_json(self, launched: Launched) -> list[Finding]:
        """Return the JSON-valued flags that the engine could not parse."""
        found = []
        for use, reason in broken_json(launched):
            got = str(launched.flags[use.name])
            shown = got if len(got) < SHOWN else got[: SHOWN - 3] + "…"
            text = (
                f"--{use.name} gets {shown} once the shell has taken its quotes, "
                f"which is not JSON: {reason}"
            )
            fix = "put the whole JSON between single quotes"
            proof = self.at(use.token.line)
            found.append(Finding("not-json", "error", text, fix, SERVE, "stated", proof))
        return found

    def arguments(self, launched: Launched) -> list[Finding]:
        """Return arguments that get lost, belong nowhere or contradict each other."""
        found = []
        for line in launched.found.cut:
            text = "the shell ends the command before this line; what follows never reaches vLLM"
            fix = "end each continued line with a backslash and keep comments out of the command"
            found.append(Finding("cut-command", "error", text, fix, BASH, "stated", self.at(line)))
        for token in launched.strays:
            text = f"'{token.text}' belongs to no flag"
            proof = self.at(token.line)
            fix = "remove it or quote it"
            found.append(Finding("stray-argument", "warn", text, fix, SERVE, "stated", proof))
        seen: dict[str, str] = {}
        for use in launched.uses:
            value = " ".join(v.text for v in use.values)
            before = seen.get(use.name, value)
            if "." not in use.name and not value.startswith("{") and before != value:
                text = f"--{use.name} is given twice, {before} and then {value}; the last one wins"
                proof = self.at(use.token.line)
                found.append(
                    Finding("given-twice", "warn", text, "keep one", SERVE, "stated", proof)
                )
            seen[use.name] = value
        return found

    def image(self, launched: Launched) -> list[Finding]:
        """Return a warning where the container image is of another release."""
        image, target = launched.found.image, self.target
        tag = image.rpartition(":")[2].removeprefix("v")
        versions = target.catalog.versions(target.engine)
        fits = [v for v in versions if tag == v or tag.startswith(v + "-")]
        if not tag or not fits or target.version in fits:
            return []
        text = f"the image {image} is {target.engine} {fits[-1]}, judged here as {target.version}"
        source = str(target.catalog.release(target.engine, fits[-1])["source"])
        fix = f"--engine-version {fits[-1]}"
        proof = self.at(launched.found.line)
        return [Finding("other-image", "warn", text, fix, source, "stated", proof)]

    def unknown(self, launched: Launched, verdict: Verdict) -> list[Finding]:
        """Return which unknown values keep which rules silent."""
        facts, by_value, by_model = verdict.facts, [], []
        for rule in verdict.undecided:
            if any(in_script(path, facts) for path in paths_of(rule["condition"])):
                by_value.append(str(rule["id"]))
            elif facts["checkpoint"] is UNKNOWN and uses_model(rule):
                by_model.append(str(rule["id"]))
        found = []
        values = [*dict.fromkeys([*launched.open_args, *launched.unknown])]
        silent = "; rules that depend on it stay silent: "
        if by_value and values:
            text = f"unknown here: {', '.join(values)}{silent}{', '.join(by_value)}"
            fix = "set it in the script to have it judged"
            proof = self.at(*launched.unknown.values())
            found.append(Finding("unknown-value", "info", text, fix, BASH, "stated", proof))
        if by_model:
            model = launched.model or "(none named)"
            text = f"the checkpoint behind {model} isn't known{silent}{', '.join(by_model)}"
            fix = "name it, as in --model flash-w8a8-mtp"
            proof = self.at(launched.found.line)
            found.append(Finding("unknown-model", "info", text, fix, SERVE, "stated", proof))
        return found

    def other_release(self, launched: Launched) -> list[Finding]:
        """Return the release that a launch was written for, where this one refuses it."""
        here = refused(launched, self.target, self.names)
        if not here:
            return []
        target = self.target
        scores = {}
        for version in target.catalog.versions(target.engine):
            there = target.at(version)
            wrong = len(refused(launched, there, self.names))
            scores[version] = (wrong, -live_names(launched, there, self.names))
        best = min(scores.values())
        if best[0] >= len(here):
            return []
        fits = [version for version, score in scores.items() if score == best]
        words = spans(fits, target.catalog.versions(target.engine))
        return [
            Finding(
                "other-release",
                "warn",
                f"this looks like a launch for {target.engine} {words}, not for {target.version}",
                f"ascend-v4 migrate FILE --from {fits[-1]} --to {target.version}",
                str(target.catalog.release(target.engine, fits[-1])["source"]),
                "inferred",
                self.at(*(locate(launched, path) for _, paths in here for path in paths)),
            )
        ]
