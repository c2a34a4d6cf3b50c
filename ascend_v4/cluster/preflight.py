"""What must hold on all nodes before any is started: asked of every node at once.

Reachable, the same ascend-v4, clocks that agree, the same weights, the same engine.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascend_v4 import __version__
from ascend_v4.core.finding import Evidence, Finding, Severity
from ascend_v4.errors import AscendV4Error, ExitCode
from ascend_v4.run.prelaunch import download_command, engine_command, other_release
from ascend_v4.run.procs import descendants, scan, send
from ascend_v4.run.remote import NO_PROGRAM
from ascend_v4.run.signals import interruptible

from .ways import PROGRAM, Way, judge_end, last_value, way_of

if TYPE_CHECKING:
    from ascend_v4.core.plan import LaunchPlan
    from ascend_v4.host.system import Completed, Host

    from .deployment import Planned

__all__ = ["Answer", "ask_all", "examine", "node_facts", "preflight"]

#: Seconds that one node may take to look at itself; weights on a cold network disk take some.
ASK_S = 120.0
AT_ONCE = 32
#: Seconds for questions that are not to be answered any more to end.
END_S = 5.0
#: So many looks in a row must show no question before they count as ended.
QUIET_LOOKS = 5
#: Seconds of clock difference: certificates and logs mind a few, tokens and leases a minute.
SKEW_WARN_S, SKEW_ERROR_S = 5.0, 60.0
#: Exit codes of the findings here, by id.
CODES = {
    "unreachable": ExitCode.UNREACHABLE,
    "no-program": ExitCode.HOST_NOT_READY,
    "no-answer": ExitCode.HOST_NOT_READY,
    "versions-differ": ExitCode.HOST_NOT_READY,
    "clocks-differ": ExitCode.HOST_NOT_READY,
    "no-engine": ExitCode.HOST_NOT_READY,
    "engines-differ": ExitCode.HOST_NOT_READY,
    "other-release": ExitCode.HOST_NOT_READY,
    "no-way": ExitCode.HOST_NOT_READY,
    "no-weights": ExitCode.WEIGHTS_INCOMPLETE,
    "weights-differ": ExitCode.WEIGHTS_CORRUPT,
}


@dataclass(frozen=True)
class Answer:
    """What a node said: its facts, or the finding that says why there are none.

    ``skew_s`` is by how many seconds its clock is surely off ours, ahead is positive.
    """

    node: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    failed: Finding | None = None
    skew_s: float = 0.0


def about(node: str, name: str, text: str, fix: str, severity: Severity = "error") -> Finding:
    """Return a finding about a node; its name stands for the place in the file until then."""
    return Finding(name, severity, text, fix, evidence=(Evidence(node),))


def node_facts(plan: LaunchPlan, host: Host, runtime: str = "native") -> dict[str, Any]:
    """Return what this node tells about itself, the time last.

    ``runtime`` is how it would run the plan: ``native`` or ``docker``.
    """
    from ascend_v4.engine.locate import find_engine, installed_version
    from ascend_v4.paths import engine_dir
    from ascend_v4.weights.nodes import fingerprint

    serves = any(process.role != "router" for process in plan.processes)
    weights: str | None = None
    if serves:
        try:
            weights = fingerprint(Path(plan.model_path))
        except AscendV4Error as error:
            weights = f"none: {error.message}"
    program = find_engine(host, plan.profile, engine_dir(host.env, plan.profile))
    versions = [installed_version(program, name) for name in ("vllm", "vllm-ascend") if program]
    return {
        "version": __version__,
        "serves": serves,
        "runtime": runtime,
        "weights": weights,
        "engine": (" + ".join(filter(None, versions)) or "unknown") if program else None,
        "release": installed_version(program, plan.engine) if program else None,
        "time": time.time(),
    }


def ask_all(ways: Sequence[Way], ask: Callable[[Way], Any]) -> list[Any]:
    """Return the answers of all nodes, asked side by side, in the order of the ways.

    A signal that stops ends the questions at once: no node that hangs is waited for.
    """
    pool = ThreadPoolExecutor(min(AT_ONCE, len(ways)))
    asked: list[Future[Any]] = []
    with interruptible():
        try:
            # A signal may come between any two of them.
            for way in ways:
                asked.append(pool.submit(ask, way))
            return [question.result() for question in asked]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_questions(asked)
            raise
        finally:
            pool.shutdown(wait=False)


def end_questions(asked: Sequence[Future[Any]]) -> None:
    """Kill the ways that still wait for an answer; this process has no other children then.

    A question may just have begun, so it is over when nothing showed for a while.
    """
    deadline, quiet = time.monotonic() + END_S, 0
    while quiet < QUIET_LOOKS and time.monotonic() < deadline:
        ways = descendants(os.getpid(), scan())
        for proc in ways:
            send(proc, signal.SIGKILL)
        over = not ways and all(question.done() for question in asked)
        quiet = quiet + 1 if over else 0
        time.sleep(0.05)


def ask_one(way: Way, text: str, host: Host, runtime: str | None = None) -> Answer:
    """Return a node's facts, or why there are none; ``runtime`` goes before the topology's."""
    before = time.time()
    given = ["--runtime", runtime] if runtime else []
    words = way.argv("cluster", "facts", "--file", "-", "--node", way.node, *given)
    done = host.run(words, timeout_s=ASK_S, stdin=text)
    after = time.time()
    try:
        facts = last_value(done.stdout, dict)
        told = float(facts["time"])
    except (ValueError, KeyError, TypeError):
        return Answer(way.node, failed=no_facts(way, done, host))
    skew = told - after if told > after else min(0.0, told - before)
    return Answer(way.node, facts, skew_s=skew)


def no_facts(way: Way, done: Completed, host: Host) -> Finding:
    """Return why a node gave no facts: no way to it, no program there, or another version."""
    lines = done.stderr.splitlines()
    judged = judge_end(way, done.returncode, lines)
    if done.returncode == -2:
        judged = (17, "unreachable", f"gave no answer within {ASK_S:g} s", f"ssh {way.to}")
    if done.returncode == -signal.SIGKILL:
        judged = (17, "unreachable", "the question was ended", f"ssh {way.to}")
    if judged is not None:
        return about(way.node, "unreachable", f"node {way.node}: {judged[2]}", judged[3])
    if done.returncode == -1 and way.words:
        text = f"node {way.node}: {way.words[0]} can't be started on this machine: no such program"
        fix = "install it here, or name another: "
        fix += "ASCEND_V4_SSH" if way.kind == "ssh" else "connect in the topology"
        return about(way.node, "no-way", text, fix)
    if done.returncode in NO_PROGRAM or done.returncode == -1:
        name = way.program[0]
        text = f"node {way.node}: {name} can't be run there ({way.to})"
        fix = "install ascend-v4 there; if it lies elsewhere: cluster up --program PATH"
        return about(way.node, "no-program", text, fix)
    version = host.run(way.argv("--version"), timeout_s=ASK_S).stdout.strip().split(" ")[-1]
    if version and version != __version__:
        return other_version(way.node, version)
    lines = lines or done.stdout.splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    text = f"node {way.node} did not tell about itself: {said}"
    return about(way.node, "no-answer", text, f"on {way.node}: {PROGRAM} doctor")


def other_version(node: str, version: str) -> Finding:
    """Return the finding of a node that has another version of this program."""
    text = f"node {node} has ascend-v4 {version}, this machine {__version__}"
    fix = f"pip install ascend-v4=={__version__} on {node}"
    return about(node, "versions-differ", text, fix)


def examine(
    answers: Sequence[Answer],
    plans: Mapping[str, LaunchPlan],
    *,
    built: bool = False,
) -> list[Finding]:
    """Return what is wrong with the nodes together.

    ``plans`` are those of the nodes by name; ``built`` weights are made where they are
    missing. A node that runs the image brings its engine along.
    """
    found = [answer.failed for answer in answers if answer.failed]
    good = [answer for answer in answers if not answer.failed]
    versions = [(answer.node, str(answer.facts.get("version"))) for answer in good]
    found += [other_version(node, version) for node, version in versions if version != __version__]
    serving = [answer for answer in good if answer.facts.get("serves")]
    found += weights_of(serving, plans, built=built)
    native = [answer for answer in serving if answer.facts.get("runtime") != "docker"]
    for answer in native:
        if not answer.facts.get("engine"):
            text = f"node {answer.node} has no engine: no vllm on PATH and none of ours"
            fix = f"on {answer.node}: {engine_command(plans[answer.node])}"
            found.append(about(answer.node, "no-engine", text, fix))
    having = [answer for answer in native if answer.facts.get("engine")]
    fix = "install one release on all nodes"
    found += odd_ones(having, "engine", "engines-differ", "engine {value}", fix)
    for answer in having:
        plan, release = plans[answer.node], answer.facts.get("release")
        if text := other_release(plan, release):
            fix = f"on {answer.node}: {engine_command(plan)}; or engine_version: {release}"
            found.append(about(answer.node, "other-release", f"node {answer.node} has {text}", fix))
    return found + clocks_of(good)


def odd_ones(answers: Sequence[Answer], key: str, name: str, form: str, fix: str) -> list[Finding]:
    """Return a finding for each node that differs from most; the first ones win a tie."""
    counted = Counter(str(answer.facts.get(key)) for answer in answers)
    if len(counted) < 2:
        return []
    usual = counted.most_common(1)[0][0]
    rest = next(answer.node for answer in answers if str(answer.facts.get(key)) == usual)
    return [
        about(
            answer.node,
            name,
            f"node {answer.node} has {form.format(value=answer.facts.get(key))},"
            f" {rest} has {form.format(value=usual)}",
            fix,
        )
        for answer in answers
        if str(answer.facts.get(key)) != usual
    ]


def weights_of(
    answers: Sequence[Answer], plans: Mapping[str, LaunchPlan], *, built: bool
) -> list[Finding]:
    """Return the nodes whose weights are missing or differ from those of most nodes."""
    missing = [a for a in answers if str(a.facts.get("weights")).startswith("none: ")]
    having = [answer for answer in answers if answer not in missing]
    found = []
    for answer in [] if built else missing:
        text = f"node {answer.node}: {str(answer.facts['weights']).removeprefix('none: ')}"
        fix = f"on {answer.node}: {download_command(plans[answer.node])}, or copy them there"
        found.append(about(answer.node, "no-weights", text, fix))
    fix = "on both: ascend-v4 verify DIR --deep"
    return found + odd_ones(having, "weights", "weights-differ", "weights {value}", fix)


def clocks_of(answers: Sequence[Answer]) -> list[Finding]:
    """Return the nodes whose clock is off ours by more than what may be, or off each other's.

    The two furthest apart are named where that is worse than what either is off ours.
    """
    found = []
    for answer in answers:
        off = abs(answer.skew_s)
        if off < SKEW_WARN_S:
            continue
        which = "ahead of" if answer.skew_s > 0 else "behind"
        text = f"the clock of node {answer.node} is {off:.0f} s {which} this machine's"
        fix = f"start chrony or ntpd on {answer.node}"
        severity: Severity = "error" if off > SKEW_ERROR_S else "warn"
        found.append(about(answer.node, "clocks-differ", text, fix, severity))
    by_skew = sorted(answers, key=lambda answer: answer.skew_s)
    apart = by_skew[-1].skew_s - by_skew[0].skew_s if answers else 0.0
    known = {finding.severity for finding in found}
    if (apart > SKEW_ERROR_S and "error" not in known) or (apart >= SKEW_WARN_S and not known):
        first, last = by_skew[-1].node, by_skew[0].node
        text = f"the clock of node {first} is {apart:.0f} s ahead of that of node {last}"
        severity = "error" if apart > SKEW_ERROR_S else "warn"
        fix = f"start chrony or ntpd on {first} and {last}"
        found.append(about(first, "clocks-differ", text, fix, severity))
    return found


def preflight(
    whole: Planned, host: Host, program: str, runtime: str | None = None
) -> list[Finding]:
    """Ask every node; return what is to be told. Raises AscendV4Error before anything starts.

    ``runtime`` goes before the topology's. The error has the code of the first node's fault
    and lists them all, with their lines.
    """
    nodes = [planned.node for planned in whole.deployment.nodes]
    ways = [way_of(node, host, program) for node in nodes]
    answers = ask_all(ways, lambda way: ask_one(way, whole.text, host, runtime))
    plans = {planned.node.name: planned.plan for planned in whole.deployment.nodes}
    built = whole.deployment.nodes[0].plan.checkpoint == "rehearsal"
    found = [placed(one, whole) for one in examine(answers, plans, built=built)]
    wrong = [finding for finding in found if finding.severity == "error"]
    if wrong:
        first = wrong[0]
        lines = [told(finding) for finding in wrong]
        text = "\n".join([lines[0], *(f"  also {line}" for line in lines[1:])])
        raise AscendV4Error(CODES[first.id], first.id, text, first.fix)
    return found


def placed(finding: Finding, whole: Planned) -> Finding:
    """Return a finding with the line of the node that it is about."""
    names = [node.name for node in whole.deployment.topology.nodes]
    index = names.index(finding.evidence[0].file)
    return replace(finding, evidence=(whole.lines.evidence(("nodes", index)),))


def told(finding: Finding) -> str:
    """Return a finding as ``file:line: message``."""
    return f"{finding.evidence[0].file}:{finding.evidence[0].line}: {finding.message}"
