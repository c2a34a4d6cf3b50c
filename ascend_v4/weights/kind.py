"""Which checkpoint a directory holds, by its own config files. Reads kilobytes, no tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ascend_v4.errors import AscendV4Error, ExitCode

__all__ = ["checkpoint_of", "model_of", "require_directory"]

#: (family, kind) -> catalog id.
CHECKPOINTS = {
    ("flash", "w8a8-mtp"): "flash-w8a8-mtp",
    ("flash", "0731-w8a8"): "flash-0731-w8a8",
    ("pro", "w4a8"): "pro-w4a8-mtp",
    ("flash", "fp4-fp8"): "flash-fp4",
    ("flash", "0731-fp4-fp8"): "flash-0731-fp4",
    ("flash", "nvfp4"): "flash-nvfp4",
    ("pro", "fp4-fp8"): "pro-fp4",
}
#: Hidden layers tell Flash from Pro (config.json of both on huggingface.co/deepseek-ai).
FAMILY = {43: "flash", 61: "pro"}


def require_directory(path: str, next_command: str) -> None:
    """Raise AscendV4Error (weights incomplete) unless ``path`` holds a config and weights."""
    directory = Path(path)
    if not directory.is_dir():
        problem = "there is no such directory"
    elif not any(directory.iterdir()):
        problem = "the directory is empty"
    elif not (directory / "config.json").is_file():
        problem = "it has no config.json"
    elif not any(directory.glob("*.safetensors")):
        problem = "it has no *.safetensors file"
    else:
        return
    raise AscendV4Error(
        ExitCode.WEIGHTS_INCOMPLETE,
        "no-weights",
        f"the model directory {path} can't be served: {problem}",
        next_command,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, or an empty one where the file is missing.

    Raises AscendV4Error (weights corrupt) for a file that is there but isn't JSON.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AscendV4Error(
            ExitCode.WEIGHTS_CORRUPT,
            "unreadable-config",
            f"{path} is not readable JSON: {error}",
            "ascend-v4 download repairs what is damaged",
        ) from error
    return value if isinstance(value, dict) else {}


def checkpoint_of(path: str) -> str | None:
    """Return the catalog id of the checkpoint in a directory, or None if it isn't one we know.

    Raises AscendV4Error (weights corrupt) for a config file that isn't JSON.
    """
    directory = Path(path)
    config = read_json(directory / "config.json")
    if config.get("ascend_v4_rehearsal"):
        return "rehearsal"
    family = FAMILY.get(config.get("num_hidden_layers", 0))
    if family is None or not str(config.get("model_type", "")).startswith("deepseek_v4"):
        return None
    return CHECKPOINTS.get((family, kind_of(directory, config, family)))


def model_of(directory: Path) -> str | None:
    """Return the catalog id of what a directory holds or, by its name, should hold.

    ``download`` names a directory after its repository: ``ORG--NAME``.
    """
    from ascend_v4.catalog.load import catalog

    with suppress(AscendV4Error):
        if found := checkpoint_of(str(directory)):
            return found
    for row in catalog().table("checkpoints"):
        if directory.name in {hub["repo"].replace("/", "--") for hub in row.get("hubs") or ()}:
            return str(row["id"])
    return None


def kind_of(directory: Path, config: Mapping[str, Any], family: str) -> str:
    """Return the kind of a DeepSeek-V4 checkpoint, as the catalog's ``kind`` column."""
    dspark = any(key.startswith("dspark") for key in config)
    if (directory / "quant_model_description.json").is_file():
        if family == "pro":
            return "w4a8"
        return "0731-w8a8" if dspark else "w8a8-mtp"
    quantization = config.get("quantization_config") or {}
    nvfp4 = directory / "hf_quant_config.json"
    if "NVFP4" in json.dumps(quantization) or "NVFP4" in json.dumps(read_json(nvfp4)):
        return "nvfp4"
    return "0731-fp4-fp8" if dspark and family == "flash" else "fp4-fp8"
