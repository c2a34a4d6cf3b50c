"""What serve and doctor ask before a launch: a refusal when it can't fit, a warning when tight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ascend_v4.core.finding import Finding
from ascend_v4.errors import AscendV4Error

from .facts import UnmodelledError
from .fit import Sizing, size
from .groups import GroupingError
from .inputs import inputs_of

if TYPE_CHECKING:
    from ascend_v4.core.compiler import Compiled

__all__ = ["findings_of", "fit_check"]

DOCS = "https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/v1/core/kv_cache_utils.py"


def fit_check(compiled: Compiled) -> list[Finding]:
    """Return findings of a compiled launch: ``does-not-fit`` (error) or ``kv-tight`` (warn).

    Nothing for a model or release whose arithmetic isn't known, and nothing on a CPU,
    where the KV memory is an option of its own. Refuses only what can't fit at the
    kindest end of every interval; takes milliseconds and imports nothing heavy.
    """
    if compiled.facts["profile"] == "cpu":
        return []
    path = compiled.plan.model_path
    directory = path if (Path(path) / "config.json").is_file() else None
    try:
        return findings_of(size(inputs_of(compiled, directory)))
    except (UnmodelledError, GroupingError):
        return []
    except AscendV4Error as error:
        return [Finding("fit-unknown", "info", error.message, error.next, DOCS, "inferred")]


def findings_of(sized: Sizing) -> list[Finding]:
    """Return the findings of a sized launch."""
    sizing = sized.input
    source = str((sizing.release or {}).get("source", DOCS))
    if sized.verdict == "does not fit" and not (sized.high and sized.high.starts):
        return [
            Finding(
                "does-not-fit",
                "error",
                f"this launch cannot fit: {sized.reason}",
                "ascend-v4 plan with the same options names the nearest launch that fits",
                source,
                "inferred",
            )
        ]
    asked = sizing.concurrency
    if asked is None or sized.high is None or sized.low is None:
        return []
    held = sized.high.max_concurrency * sizing.dp
    if held >= asked:
        return []
    return [
        Finding(
            "kv-tight",
            "warn",
            f"the KV memory holds at most {held:.1f} requests of {sizing.context:,} tokens at "
            f"once, not the {asked} asked for; the others wait or are preempted",
            "lower --max-num-batched-tokens or --context; ascend-v4 plan --sweep shows the trade",
            source,
            "inferred",
        )
    ]
