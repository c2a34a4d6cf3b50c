"""What a model name means."""

from __future__ import annotations

import pytest

from ascend_v4.errors import AscendV4Error
from ascend_v4.weights.source import Source, resolve_model

W8A8 = Source("modelscope", "Eco-Tech/DeepSeek-V4-Flash-w8a8-mtp")
FP4 = Source("modelscope", "deepseek-ai/DeepSeek-V4-Flash")
DSPARK = Source(
    "modelscope",
    "Eco-Tech/DeepSeek-V4-Flash-0731-w8a8",
    "9e8679a9db7eec11efed9925f7efb96549077545",
)
REHEARSAL = Source("local", "rehearsal")


@pytest.mark.parametrize(
    ("profile", "model", "source"),
    [
        ("ascend", None, W8A8),
        ("cuda", None, FP4),
        ("cpu", None, REHEARSAL),
        ("cpu", "flash", REHEARSAL),
        (None, "rehearsal", REHEARSAL),
        ("ascend", "flash", W8A8),
        ("cuda", "flash", FP4),
        (None, "flash-w8a8-mtp", W8A8),
        ("auto", "flash-fp4", FP4),
        (None, "flash-0731-w8a8", DSPARK),
        (None, "eco-tech/deepseek-v4-flash-0731-w8a8", DSPARK),
        (None, "someone/else", Source("modelscope", "someone/else")),
    ],
)
def test_names(profile: str | None, model: str | None, source: Source) -> None:
    assert resolve_model(profile, model) == source


@pytest.mark.parametrize(
    ("profile", "model", "code", "kind"),
    [
        (None, None, 2, "profile-needed"),
        ("auto", None, 2, "profile-needed"),
        (None, "flash", 2, "profile-needed"),
        ("cpu", "pro", 2, "unknown-model"),
        (None, "flash-w8a8-mpt", 2, "unknown-model"),
        (None, "/data/weights", 2, "not-a-hub-id"),
        (None, "../weights", 2, "not-a-hub-id"),
        (None, "flash-nvfp4", 3, "not-on-modelscope"),
    ],
)
def test_names_that_mean_nothing(
    profile: str | None, model: str | None, code: int, kind: str
) -> None:
    with pytest.raises(AscendV4Error) as caught:
        resolve_model(profile, model)
    assert (int(caught.value.code), caught.value.kind) == (code, kind)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(AscendV4Error, match=r"did you mean flash-w8a8-mtp\?"):
        resolve_model(None, "flash-w8a8-mpt")
