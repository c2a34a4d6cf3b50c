"""The guardian: a small process between the launcher and one member's engine.

It is the parent of the engine and a child subreaper, so whatever the engine's processes
do (new sessions, double forks, a death of any of them), every one stays its descendant.
It holds a socket to the launcher. When the launcher ends, however it ends, the socket
reads EOF and the guardian stops everything of its member: TERM, then KILL.

Its parent is the watcher, the same program before it forked and a subreaper too: when the
guardian itself is killed, the kernel hands the engine's processes to the watcher, which
ends them. What can't be killed keeps the claims on devices and ports, as does a container
that docker does not say is gone, see keeper.py.

From the launcher, one JSON line each: first ``{"argv", "env", "grace_s"}``, then
``{"signal": n}`` for the engine's main process, ``{"all": n}`` for every process, or
``{"now": true}`` to kill. To the launcher: ``{"main": {...}}``, ``{"exit": status}``
when the main process ends, ``{"end": {...}}`` when nothing is left or can't be killed.

Started by path as ``python -I -S guardian.py RUN MEMBER FD``; standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import stat
import sys
import time
from typing import Any

if not __package__:
    here = os.path.abspath(__file__)  # noqa: PTH100  pathlib costs memory here
    sys.path.insert(0, here.rsplit(os.sep, 3)[0])

from ascend_v4.run import cgroup
from ascend_v4.run.outside import asking_docker, succeeds
from ascend_v4.run.procs import (
    KEEPER_VARIABLE,
    Proc,
    carriers,
    descendants,
    identify,
    left_over,
    scan,
    send,
    title,
)

__all__ = ["Guardian", "main", "set_subreaper"]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: Seconds from TERM to KILL once the launcher is gone; 5 s in all are promised.
EOF_GRACE_S = 1.5
#: Seconds that what is left gets after the main process ended, and from KILL to giving up.
GRACE_S = 2.0
KILL_S = 10.0
TICK_S = 0.05
#: What Python may need of our own environment.
SMALL = ("PATH", "LD_LIBRARY_PATH")
#: How the guardian's exit tells the watcher that something can't be ended.
LEFT = 12
KEEPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")  # noqa: PTH118, PTH120, PTH100
#: The launcher decides how a run stops; the guardian learns it from the socket alone.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def prctl(option: int, value: int) -> None:
    """Call prctl(2); a kernel that refuses changes nothing for us."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def set_subreaper() -> None:
    """Become the parent of every orphan among our descendants."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


class Guardian:
    """One member's guardian, or watcher.

    ``fd`` is its end of the socket to the launcher, ``claims`` are the locks that it holds.
    """

    def __init__(self, run_id: str, member: str, fd: int, claims: list[int]) -> None:
        self.run_id, self.member, self.fd, self.claims = run_id, member, fd, claims
        self.buffer = b""
        self.main: Proc | None = None
        self.status: int | None = None
        self.kill_at: float | None = None
        self.give_up_at: float | None = None
        self.next_scan = 0.0
        self.empty_scans = 0
        self.killed: dict[int, str] = {}
        self.termed: set[tuple[int, int]] = set()
        self.left: list[Proc] = []
        self.outside: list[str] = []
        self.grace_s = GRACE_S
        self.launcher_gone = False
        self.cleanup: list[list[str]] = []
        self.env: dict[str, str] = {}
        self.group = ""
        self.wake_r = self.wake_w = -1

    def run(self) -> int:
        """Part into watcher and guardian; return the exit status of either."""
        spec = self.first_line()
        if spec is None:
            return 0
        self.grace_s = float(spec.get("grace_s", GRACE_S))
        self.cleanup, self.env = spec.get("cleanup", []), spec["env"]
        self.group = cgroup.make(self.run_id, self.member)
        guardian = os.fork()
        if guardian:
            return self.watch(guardian)
        # A signal to the process group of one must not reach both.
        os.setsid()
        return self.guard(spec)

    def guard(self, spec: dict[str, Any]) -> int:
        """Start the engine, obey the launcher, and leave when nothing of the member is left."""
        self.listen()
        try:
            self.start(spec["argv"], spec["env"])
            while not self.finished():
                self.step()
        except Exception:
            # Whatever is wrong with us, the engine must not outlive us.
            self.end_all(0.0)
            raise
        finally:
            cgroup.remove(self.group)
        return LEFT if self.left or self.outside else 0

    def watch(self, guardian: int) -> int:
        """Wait for the guardian's end and do what it left undone.

        Its orphans are ours: we are a subreaper, and the engine has no other above it.
        """
        hush()
        os.close(self.fd)
        self.fd, self.launcher_gone = -1, True
        _, status = os.waitpid(guardian, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, LEFT):
            self.listen()
            self.end_all(EOF_GRACE_S)
            cgroup.remove(self.group)
        left = self.members() if code and self.claims else []
        # A guardian that failed does not tell what; asking again for a container harms nothing.
        outside = self.cleanup if self.outside or code == LEFT else []
        if left or outside:
            self.keep_claims(left, outside)
        return 0

    def listen(self) -> None:
        """Become a subreaper that wakes up when a child ends."""
        set_subreaper()
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_w, False)
        os.set_blocking(self.wake_r, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def end_all(self, grace_s: float) -> None:
        """End every process of the member, as far as they can be ended."""
        self.stop_all(grace_s)
        while not self.finished():
            self.step()

    def keep_claims(self, left: list[Proc], outside: list[list[str]]) -> None:
        """Leave the claims to a process that waits until the very last of ``left`` is gone.

        It goes on with the commands ``outside`` until each succeeds.
        """
        for number in self.claims:
            os.set_inheritable(number, True)
        words = [f"{proc.pid}:{proc.start}" for proc in left]
        words += [json.dumps(command) for command in outside]
        argv = [sys.executable, "-I", "-S", KEEPER, *words]
        # Without our run id: it is no stray. Nor with the engine's secrets.
        ours = {name: os.environ[name] for name in SMALL if name in os.environ}
        env = {**ours, **asking_docker(self.env)} if outside else ours
        os.posix_spawn(sys.executable, argv, {**env, KEEPER_VARIABLE: self.run_id})

    def step(self) -> None:
        """Wait for something to happen and act on it."""
        self.wait()
        self.reap()
        self.clean()

    def first_line(self) -> dict[str, Any] | None:
        """Return what to start, or None when the launcher ended before it said so."""
        while b"\n" not in self.buffer:
            data = os.read(self.fd, 65536)
            if not data:
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        spec: dict[str, Any] = json.loads(line)
        return spec

    def start(self, argv: list[str], env: dict[str, str]) -> None:
        """Fork and run the engine in a session of its own, its output on our stdout's pipe."""
        guardian = os.getpid()
        pid = os.fork()
        if pid == 0:
            self.become(argv, env, guardian)
        found = identify(pid)
        self.main = found or Proc(pid, 0, guardian, "Z")
        hush()
        self.tell({"main": {"pid": pid, "start": self.main.start}})

    def become(self, argv: list[str], env: dict[str, str], guardian: int) -> None:
        """Turn this forked child into the engine; never returns."""
        try:
            os.setsid()
            cgroup.enter(self.group)
            # Should guardian and launcher be killed in the same moment, the engine is at
            # least asked to stop; it then stops its own children.
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != guardian:
                os._exit(143)
            signal.set_wakeup_fd(-1)
            for number in (*IGNORED, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execve(argv[0], argv, env)
        except OSError as error:
            os.write(2, f"ascend-v4: can't start {argv[0]}: {error}\n".encode())
        os._exit(127 if argv else 126)

    def wait(self) -> None:
        """Sleep until a child ends, the launcher speaks or ends, or the next tick of a clean-up."""
        busy = self.status is not None or self.kill_at is not None
        fds = [self.wake_r] if self.launcher_gone else [self.wake_r, self.fd]
        ready, _, _ = select.select(fds, [], [], TICK_S if busy else None)
        if self.wake_r in ready:
            os.read(self.wake_r, 4096)
        if self.fd in ready:
            self.hear()

    def hear(self) -> None:
        """Read what the launcher says; its end starts the clean-up."""
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        if not data:
            self.launcher_gone = True
            self.stop_all(EOF_GRACE_S)
            return
        self.buffer += data
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            self.obey(json.loads(line))

    def obey(self, order: dict[str, Any]) -> None:
        """Do one thing that the launcher asks for."""
        if "signal" in order and self.main is not None and self.status is None:
            send(self.main, int(order["signal"]))
        if "all" in order:
            for proc in self.members():
                send(proc, int(order["all"]))
        if order.get("now"):
            self.stop_all(0.0)

    def members(self) -> list[Proc]:
        """Return the live processes of the member: our descendants and who carries its mark."""
        table = scan()
        found = {proc.pid: proc for proc in descendants(os.getpid(), table) if not proc.over}
        for proc in carriers(self.run_id, self.member, table):
            found.setdefault(proc.pid, proc)
        found.pop(os.getpid(), None)
        return list(found.values())

    def reap(self) -> None:
        """Collect every child that ended, orphans of the engine among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.main is not None and pid == self.main.pid and self.status is None:
                self.status = os.waitstatus_to_exitcode(status)
                self.tell({"exit": self.status})
                self.stop_all(self.grace_s)

    def stop_all(self, grace_s: float) -> None:
        """Begin the clean-up: TERM now, KILL after ``grace_s`` seconds; never later than set."""
        at = time.monotonic() + grace_s
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)
        self.next_scan = 0.0

    def clean(self) -> None:
        """Take the next step of a clean-up that has begun."""
        now = time.monotonic()
        if self.kill_at is None or now < self.next_scan:
            return
        self.next_scan = now + TICK_S
        kill = now >= self.kill_at
        if kill:
            cgroup.kill(self.group)
        for proc in self.members():
            key = (proc.pid, proc.start)
            if kill:
                if self.status is not None or proc != self.main:
                    self.killed.setdefault(proc.pid, title(proc.pid))
                send(proc, signal.SIGKILL)
            elif key not in self.termed:
                self.termed.add(key)
                send(proc, signal.SIGTERM)
        if kill and self.give_up_at is None:
            self.give_up_at = now + KILL_S

    def finished(self) -> bool:
        """Whether the member is gone, or what is left can't be killed; tells the launcher."""
        if self.kill_at is None:
            return False
        left = self.members()
        self.empty_scans = 0 if left else self.empty_scans + 1
        if left and (self.give_up_at is None or time.monotonic() < self.give_up_at):
            return False
        if self.empty_scans == 1:
            # A process born while /proc was read shows in the next reading.
            return False
        if self.status is None:
            self.reap()
        names = [
            {"pid": p.pid, "start": p.start, "state": p.state, "title": title(p.pid)}
            for p in left_over(left)
        ]
        self.outside = self.clean_outside()
        names += [{"pid": 0, "start": 0, "state": "?", "title": what} for what in self.outside]
        self.left = left
        killed = [{"pid": pid, "title": name} for pid, name in self.killed.items()]
        self.tell({"end": {"killed": killed, "left": names}})
        return True

    def clean_outside(self) -> list[str]:
        """Run the commands that end what is no process of ours; return what those that failed do.

        Each names what it ends in the word after its script.
        """
        return [command[3] for command in self.cleanup if not succeeds(command, self.env)]

    def tell(self, what: dict[str, Any]) -> None:
        """Send one line to the launcher; one that is gone misses nothing."""
        try:
            os.write(self.fd, json.dumps(what).encode() + b"\n")
        except OSError:
            self.launcher_gone = True


def hush() -> None:
    """Let go of the log's pipe: it ends with the last of the engine that holds it open."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


def inherited(fd: int) -> list[int]:
    """Make what came to us stay here, the engine must not hold it; return the claims among it."""
    claims = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)
                if int(name) != fd and stat.S_ISREG(os.fstat(int(name)).st_mode):
                    claims.append(int(name))
    return claims


def main(argv: list[str]) -> int:
    """Guard one member; ``argv`` is run id, member name and the number of the socket."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    fd = int(argv[2])
    claims = inherited(fd)
    set_subreaper()
    return Guardian(argv[0], argv[1], fd, claims).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
