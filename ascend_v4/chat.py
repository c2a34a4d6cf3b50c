"""One chat turn with a DeepSeek-V4 server, through the official OpenAI client.

What differs between engine releases is known here: thinking is asked for in
``chat_template_kwargs``, always explicitly, because the default mode changes by
release, and the reply's field is ``reasoning`` in recent vLLM and
``reasoning_content`` before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import AscendV4Error, ExitCode
from .run.inherit import read_secret

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Answer", "Turn", "ask", "connect", "reachable"]


@dataclass(frozen=True)
class Turn:
    """A question; ``thinking`` is off, high or max, ``max_tokens`` None for no limit."""

    question: str
    thinking: str
    model: str
    max_tokens: int | None = None

    def template_kwargs(self) -> dict[str, Any]:
        """Return the thinking mode in the words of DeepSeek-V4's chat encoding."""
        if self.thinking == "off":
            return {"thinking": False}
        return {"thinking": True, "reasoning_effort": self.thinking}


@dataclass
class Answer:
    """What came back: both channels, tool calls, why it ended, token counts."""

    reasoning: str = ""
    content: str = ""
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    tool_calls: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as a JSON object."""
        return {
            "answer": self.content,
            "reasoning": self.reasoning,
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "tool_calls": self.tool_calls,
        }


def connect(base_url: str, api_key_file: str | None) -> OpenAI:
    """Return a client of the endpoint; the key comes from a file, never from argv.

    Raises AscendV4Error (usage) for a key file that can't be read or an address that is no URL.
    """
    from openai import DefaultHttpxClient, OpenAI

    if not base_url.startswith(("http://", "https://")):
        raise AscendV4Error(
            ExitCode.USAGE,
            "not-a-url",
            f"--base-url {base_url} is not a URL: it starts with http:// or https://",
            "--base-url http://127.0.0.1:8000/v1",
        )
    key = read_secret(api_key_file) if api_key_file else "none"
    local = any(host in base_url for host in ("://127.", "://localhost", "://[::1]"))
    # A proxy can't reach our own loopback, so the environment's is left out there.
    http = DefaultHttpxClient(trust_env=not local)
    return OpenAI(base_url=base_url, api_key=key, http_client=http, max_retries=0)


@contextmanager
def reachable(base_url: str) -> Iterator[None]:
    """Turn the client's errors into ours: unreachable, or refused with the server's words."""
    from openai import APIConnectionError, APIStatusError

    try:
        yield
    except APIConnectionError as error:
        raise AscendV4Error(
            ExitCode.UNREACHABLE,
            "no-server",
            f"no server answers at {base_url}: {error.__cause__ or error}",
            "start one with ascend-v4 serve, or name it with --base-url",
        ) from error
    except APIStatusError as error:
        raise AscendV4Error(
            ExitCode.USAGE if error.status_code < 500 else ExitCode.UNREACHABLE,
            f"http-{error.status_code}",
            f"{base_url} refused the question with HTTP {error.status_code}: {error.message}",
            "ascend-v4 chat --help",
        ) from error


def ask(client: OpenAI, turn: Turn, show: Callable[[str, str], None]) -> Answer:
    """Ask one question and return the answer; ``show(channel, text)`` sees it as it streams.

    Channels are ``reasoning`` and ``answer``. Raises AscendV4Error: unreachable, or usage
    when the server refuses the request.
    """
    answer = Answer()
    with reachable(str(client.base_url)):
        stream = client.chat.completions.create(
            model=turn.model,
            messages=[{"role": "user", "content": turn.question}],
            max_completion_tokens=turn.max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"chat_template_kwargs": turn.template_kwargs()},
        )
        for chunk in stream:
            take_chunk(answer, chunk, show)
    return answer


def take_chunk(answer: Answer, chunk: Any, show: Callable[[str, str], None]) -> None:
    """Add one streamed chunk to the answer."""
    if chunk.usage:
        answer.usage = chunk.usage.model_dump(exclude_none=True)
    for choice in chunk.choices:
        delta = choice.delta
        extra = delta.model_extra or {}
        reasoning = extra.get("reasoning") or extra.get("reasoning_content") or ""
        for channel, text in (("reasoning", reasoning), ("answer", delta.content or "")):
            if text:
                show(channel, text)
        answer.reasoning += reasoning
        answer.content += delta.content or ""
        take_tool_calls(answer, delta.tool_calls or [])
        answer.finish_reason = choice.finish_reason or answer.finish_reason


def take_tool_calls(answer: Answer, calls: list[Any]) -> None:
    """Add streamed pieces of tool calls, by their index."""
    for call in calls:
        while len(answer.tool_calls) <= call.index:
            answer.tool_calls.append({"name": "", "arguments": ""})
        piece = answer.tool_calls[call.index]
        piece["name"] += call.function.name or ""
        piece["arguments"] += call.function.arguments or ""
