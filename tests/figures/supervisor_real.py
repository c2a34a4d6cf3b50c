"""The supervisor's figures that need the real CPU engine; called by tests.figures.supervisor."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.run.real import RealRun, one_kill
from tests.support.fake_tree_run import until

__all__ = ["real_ready", "real_strays"]

Show = Callable[..., None]


def real_strays(
    place: Path, runs: int, kinds: Sequence[str], replicas: Sequence[int], show: Show
) -> None:
    """Kill each part of the real tree and show what is alive 5 s after the launcher's end."""
    for dp in replicas:
        for kind in kinds:
            done = [one_kill(place / f"{dp}-{kind}-{n}", kind, dp) for n in range(runs)]
            sizes, codes, left, end_s, clean_s = zip(*done, strict=True)
            show(
                "strays",
                engine=f"real dp{dp}",
                kind=kind,
                runs=runs,
                processes=sorted(set(sizes)),
                strays=sum(map(len, left)),
                left=sorted({title for titles in left for title in titles}),
                codes=sorted(set(codes)),
                end_s_max=round(max(end_s), 2),
                clean_s_max=round(max(clean_s), 2),
            )


def first_token(url: str, over: Callable[[], object]) -> float:
    """Return the moment at which a server has generated a token, asked all the time."""
    from ascend_v4.run.ready import ReadyProbe

    probe = ReadyProbe(url, "rehearsal", timeout_s=10)
    while not probe.generated():
        assert not over(), "the server ended before it was ready"
        time.sleep(0.05)
    return time.monotonic()


def fresh(shared: Path) -> Path:
    """Return a new directory whose models are the shared ones."""
    (shared / "models").mkdir(parents=True, exist_ok=True)
    place = shared / f"{len(list(shared.iterdir()))}"
    place.mkdir()
    (place / "models").symlink_to(shared / "models")
    return place


def end(run: RealRun) -> None:
    """Stop a run that serves."""
    run.process.terminate()
    run.process.wait()
    run.process.stdout.close()


def ours_s(place: Path, *options: str) -> dict[str, float]:
    """Return the seconds from the start of ``ascend-v4 serve`` to its word that it is ready.

    Of those: ``before_s`` until the engine's process begins, ``after_s`` from the first
    token that somebody else got. Unlike the total they hardly feel a busy machine.
    """
    moments: list[float] = []
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    run = RealRun(fresh(place), 1, *options)

    def ask() -> None:
        until(lambda: run.read("state").get("starts"), 120)
        url = run.read("plan")["processes"][0]["ready"]["url"]
        moments.append(first_token(url, run.process.poll))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    run.ready()
    ready = time.monotonic()
    asking.join(10)
    ticks = run.read("state")["members"][0]["main"]["start"]
    end(run)
    before = ticks / os.sysconf("SC_CLK_TCK") - began
    return {"total": ready - run.began, "before": before, "after": ready - moments[0]}


def bare_s(place: Path) -> float:
    """Return the seconds that ``vllm serve`` takes with the very plan of such a run."""
    place = fresh(place)
    run = RealRun(place, 1, "--dry-run")
    plan = json.loads(run.process.communicate()[0])["processes"][0]
    kept = {name: text for name, text in run.env.items() if name not in plan["unset"]}
    argv = [str(run.engine / "bin" / "vllm"), *plan["argv"][1:]]
    log = place / "bare.err"
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env={**kept, **plan["env"]}, stderr=file, stdout=file)
    try:
        return first_token(plan["ready"]["url"], process.poll) - began
    finally:
        process.terminate()
        process.wait()


def real_ready(place: Path, pairs: int, show: Show) -> None:
    """Seconds to the first token: ours and bare in turn, and ours with the engine's checks.

    One start before them fills the machine's caches and makes the checkpoint.
    """
    found: dict[str, list[float]] = {}
    place = place / "ready"
    ours_s(place, "--no-check-engine")
    for number in range(pairs):
        bare = bare_s(place) if number % 2 else 0.0
        ours = ours_s(place, "--no-check-engine")
        bare = bare or bare_s(place)
        # A port of its own makes it a launch that was never checked before.
        checked = ours_s(place)
        round_ = {
            "ours_s": ours["total"],
            "bare_s": bare,
            "before_s": ours["before"],
            "after_s": ours["after"],
            "added_s": ours["before"] + ours["after"],
            "check_s": checked["before"] - ours["before"],
        }
        for name, value in round_.items():
            found.setdefault(name, []).append(value)
        show("pair", **{name: round(value, 2) for name, value in round_.items()})
    middle = {name: round(statistics.median(values), 2) for name, values in found.items()}
    show("ready", engine="real", pairs=pairs, **middle)
