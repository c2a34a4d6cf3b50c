"""Exceptions of the hubs' clients and of our own transfer as one small set of kinds."""

from __future__ import annotations

import ssl

__all__ = ["Answer", "classify"]


class Answer(Exception):
    """An answer that isn't what was asked for: kind, HTTP status, detail, seconds to wait."""

    def __init__(
        self, kind: str, status: int | None, detail: str, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{kind} {status or ''} {detail}")
        self.kind, self.status, self.detail, self.retry_after = kind, status, detail, retry_after


def classify(error: BaseException) -> dict[str, object]:
    """Return an exception as ``kind``, HTTP ``status`` and ``detail``; see :class:`Fault`."""
    if isinstance(error, Answer):
        return {"kind": error.kind, "status": error.status, "detail": error.detail}
    status, answer = getattr(error, "status_code", None), getattr(error, "response", None)
    if status is None and answer is not None:
        status = getattr(answer, "status_code", None)
    kind = _on_the_way(error, status) or _kind(error)
    disk = _disk_error(error)
    detail = disk.strerror if disk is not None else type(error).__name__
    return {"kind": "disk" if disk else kind, "status": status, "detail": detail}


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the operating system's error behind ``error``, unless it is the network's.

    The ModelScope client wraps those that it doesn't know in a NetworkError of its own.
    """
    import requests

    for _ in range(4):
        if error is None:
            return None
        network = isinstance(error, ConnectionError | TimeoutError | requests.RequestException)
        if isinstance(error, OSError) and error.errno is not None and not network:
            return error
        error = error.__cause__
    return None


def _on_the_way(error: BaseException | None, status: object) -> str:
    """Return ``tls`` or ``proxy`` where one of these is what failed, ``""`` otherwise."""
    if status == 407:
        return "proxy"
    for _ in range(12):
        if error is None:
            return ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return "tls"
        if "ProxyError" in {cls.__name__ for cls in type(error).__mro__}:
            return "proxy"
        error = error.__cause__ or error.__context__
    return ""


def _kind(error: BaseException) -> str:
    if type(error).__module__.startswith(("huggingface_hub", "httpx")):
        return _hugging_face_kind(error)
    import requests
    import urllib3
    from modelscope_hub import errors

    kinds: list[tuple[type[BaseException], str]] = [
        (errors.FileSizeMismatchError, "size"),
        (errors.FileIntegrityError, "hash"),
        (errors.AuthenticationError, "denied"),
        (errors.PermissionDeniedError, "denied"),
        (errors.NotExistError, "missing"),
        (errors.RateLimitError, "server"),
        (errors.ServerError, "server"),
        (errors.APIError, "server"),
        (errors.RequestTimeoutError, "network"),
        (errors.NetworkError, "network"),
        (requests.exceptions.JSONDecodeError, "not-json"),
        (requests.RequestException, "network"),
        (urllib3.exceptions.HTTPError, "network"),
        (ConnectionError, "network"),
        (TimeoutError, "network"),
        (ValueError, "not-json"),
    ]
    return next((word for cls, word in kinds if isinstance(error, cls)), "other")


def _hugging_face_kind(error: BaseException) -> str:
    """Return the kind of an error of huggingface_hub or of the library below it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    if status in (401, 403) or "GatedRepoError" in names:
        return "denied"
    if status == 404:
        return "missing"
    if status is not None:
        return "server"
    return "not-json" if "ValueError" in names and "HTTPError" not in names else "network"
