"""A catalog small enough to know by heart."""

from __future__ import annotations

from ascend_v4.catalog.load import Catalog

SOURCE = "https://example.org/source"
ENGINE = "vllm-ascend"


def release(version, **more):
    return {"engine": ENGINE, "version": version, "vllm": "0", "source": SOURCE, **more}


def variable(name, kind="env", effects=(), **more):
    row = {"name": name, "kind": kind, "engine": ENGINE, "type": "boolean", "meaning": "m"}
    return {**row, "effects": list(effects), "source": SOURCE, **more}


def read(says="read", **more):
    return {"effect": "read", "says": says, **more}


SMALL = Catalog(
    {
        "releases": [
            release("1.0", default=True),
            release("2.0"),
            release("3.0", capabilities=["strict-additional-config"]),
        ],
        "chips": [
            {
                "id": "a2",
                "profile": "ascend",
                "title": "A2",
                "devices_per_node": 8,
                "source": SOURCE,
            }
        ],
        "checkpoints": [
            {
                "id": "tiny",
                "title": "Tiny",
                "family": "flash",
                "kind": "k",
                "aliases": {"flash": "ascend"},
                "hubs": [{"hub": "modelscope", "repo": "org/Tiny-1"}],
                "spec": ["mtp", "none"],
                "chips": ["a2"],
                "served_as": "tiny",
                "o_groups": 8,
                "source": SOURCE,
            }
        ],
        "variables": [
            variable(
                "VLLM_ASCEND_FAST",
                moved_to="additional_config.fast",
                effects=[
                    read(until="1.0", values=[0, 1]),
                    {"since": "2.0", "effect": "ignored", "says": "nobody reads it"},
                ],
            ),
            variable(
                "additional_config.fast",
                "additional_config",
                [{"until": "1.0", "effect": "ignored", "says": "not yet"}, read(since="2.0")],
            ),
            variable("VLLM_ASCEND_NEED", effects=[read()]),
            variable("VLLM_ASCEND_OLD", effects=[read(until="1.0")]),
            variable(
                "HCCL_BUFFSIZE", effects=[read(until="1.0"), read("twice as much", since="2.0")]
            ),
            variable("additional_config.mode", "additional_config", [read()]),
        ],
        "choices": [
            {"id": f"c-{name}", "set": name, "value": value, "reason": "r", "source": SOURCE}
            for name, value in {
                "tensor_parallel_size": 8,
                "data_parallel_size": 1,
                "host": "h",
                "port": 1,
                "spec": "none",
                "nodes": 1,
            }.items()
        ],
        "settings": [
            {
                "id": "need",
                "set": "env.VLLM_ASCEND_NEED",
                "value": "1",
                "reason": "r",
                "source": SOURCE,
            }
        ],
        "recipes": [],
        "connectors": [],
        "rules": [
            {
                "id": "mode-needs-need",
                "severity": "error",
                "applies": {"engine": ENGINE, "since": "2.0"},
                "condition": [
                    "all",
                    ["flag.additional-config.mode", "true", True],
                    ["env.VLLM_ASCEND_NEED", "true", False],
                ],
                "message": "mode needs NEED",
                "fix": "export VLLM_ASCEND_NEED=1",
                "source": SOURCE,
            },
            {
                "id": "tp-divides",
                "severity": "error",
                "condition": ["not", ["tensor_parallel_size", "divides", {"fact": "o_groups"}]],
                "message": "TP {tensor_parallel_size} does not divide {o_groups}",
                "source": SOURCE,
            },
        ],
    }
)
