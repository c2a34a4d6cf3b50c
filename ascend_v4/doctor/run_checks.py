"""Runs checks at once in threads, each with a limit: a stuck tool costs one verdict."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .check import Outcome

__all__ = ["Task", "run_all", "spread"]


@dataclass(frozen=True)
class Task:
    """A check function, the ids it answers for, and its limit in seconds of wall time."""

    ids: tuple[str, ...]
    ask: Callable[[], Iterable[Outcome]]
    limit_s: float = 10.0


def run_all(tasks: Sequence[Task], limit_s: float = 30.0) -> list[Outcome]:
    """Return the outcomes of all tasks in their order; never raises.

    A task that outlives its limit (or ``limit_s`` for all) is left behind in its daemon
    thread and its checks are ``unknown``, as are those of one that raises.
    """
    done: queue.Queue[tuple[int, list[Outcome]]] = queue.Queue()
    for number, task in enumerate(tasks):
        threading.Thread(target=answer, args=(number, task, done), daemon=True).start()
    answers: dict[int, list[Outcome]] = {}
    begun = time.monotonic()
    while len(answers) < len(tasks):
        passed = time.monotonic() - begun
        waiting = [t.limit_s for n, t in enumerate(tasks) if n not in answers]
        left = min(max(waiting), limit_s) - passed
        try:
            number, outcomes = done.get(timeout=max(0.0, left))
        except queue.Empty:
            break
        if time.monotonic() - begun <= tasks[number].limit_s + 0.5:
            answers[number] = outcomes
        else:
            answers[number] = late(tasks[number])
    return [o for n, task in enumerate(tasks) for o in answers.get(n, late(task))]


def late(task: Task) -> list[Outcome]:
    """Return the outcomes of a task that did not answer."""
    return [Outcome(name, "unknown", f"no answer within {task.limit_s:g} s") for name in task.ids]


def answer(number: int, task: Task, done: queue.Queue[tuple[int, list[Outcome]]]) -> None:
    """Run one task; a fault of ours or of the host becomes an unknown verdict."""
    try:
        outcomes = list(task.ask())
    except Exception as error:
        said = f"the check itself failed: {type(error).__name__}: {error}"
        outcomes = [Outcome(name, "unknown", said) for name in task.ids]
    done.put((number, outcomes))


def spread(asks: Sequence[Callable[[], object]], width: int, limit_s: float) -> list[object]:
    """Return the results of calls made ``width`` at a time, None for one that is late or raises."""
    results: list[object] = [None] * len(asks)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(asks)):
        waiting.put(number)

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results[number] = asks[number]()
            except Exception:
                results[number] = None

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(width, len(asks)))]
    for worker in workers:
        worker.start()
    end = time.monotonic() + limit_s
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
    return list(results)
