"""``ascend-v4 chat``: one question to a running server, through the official client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ascend_v4.errors import AscendV4Error, ExitCode

from .options import json_option
from .output import print_json, print_result, status
from .planning import host_of

if TYPE_CHECKING:
    from openai import OpenAI

    from ascend_v4.chat import Answer
    from ascend_v4.host.system import Host

__all__ = ["command"]

DEFAULT_URL = "http://127.0.0.1:8000/v1"


@click.command("chat")
@click.argument("question")
@click.option(
    "--thinking",
    type=click.Choice(["off", "high", "max"]),
    default="off",
    show_default=True,
    help="How long the model thinks first; max wants 384K of context.",
)
@click.option(
    "--base-url",
    envvar="ASCEND_V4_BASE_URL",
    help="Endpoint that `serve` printed.  [default: that of the only live run, else"
    f" {DEFAULT_URL}]",
)
@click.option("--model", help="Served model name; the server's first when not given.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, tokens.")
@click.option(
    "--api-key-file",
    type=click.Path(),
    envvar="ASCEND_V4_API_KEY_FILE",
    help="File that holds the API key.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    question: str,
    thinking: str,
    base_url: str | None,
    model: str | None,
    max_tokens: int | None,
    api_key_file: str | None,
    as_json: bool,
) -> None:
    """Ask QUESTION and stream the answer; reasoning is shown apart, on stderr."""
    from ascend_v4.chat import Turn, ask, connect

    url = base_url or live_endpoint(host_of(ctx)) or DEFAULT_URL
    client = connect(url, api_key_file)
    turn = Turn(question, thinking, model or first_model(client, url), max_tokens)
    if as_json:
        print_json(ask(client, turn, lambda _channel, _text: None).to_json())
        return
    printer = ChannelPrinter()
    tell(ask(client, turn, printer))
    printer.end()


def live_endpoint(host: Host) -> str:
    """Return the endpoint of the only run that is alive, ``""`` for none or several."""
    from ascend_v4.run.state import live_runs

    runs = live_runs(host.env)
    return str(runs[0].read("state").get("endpoint", "")) if len(runs) == 1 else ""


def first_model(client: OpenAI, base_url: str) -> str:
    """Return the name of the first model that the server lists."""
    from ascend_v4.chat import reachable

    with reachable(base_url):
        models = list(client.models.list())
    if not models:
        raise AscendV4Error(
            ExitCode.UNREACHABLE, "no-model", f"{base_url} lists no model", "ascend-v4 serve"
        )
    return models[0].id


class ChannelPrinter:
    """Prints streamed text: reasoning on stderr under a heading, the answer on stdout."""

    def __init__(self) -> None:
        self.channel = ""

    def __call__(self, channel: str, text: str) -> None:
        """Print a piece of one channel as it arrives."""
        if channel != self.channel:
            self._switch(channel)
        click.echo(text, nl=False, err=channel == "reasoning")

    def _switch(self, channel: str) -> None:
        if channel == "reasoning":
            status("[reasoning]")
        elif self.channel == "reasoning":
            status("\n[answer]")
        self.channel = channel

    def end(self) -> None:
        """End the last line."""
        if self.channel == "answer":
            print_result("")


def tell(answer: Answer) -> None:
    """Say on stderr why the answer ended and how many tokens it took."""
    counts: dict[str, Any] = answer.usage
    if answer.tool_calls:
        for call in answer.tool_calls:
            print_result(f"tool call: {call['name']}({call['arguments']})")
    click.echo("", err=True, nl=False)
    ended = f"\n[{answer.finish_reason}; {counts.get('prompt_tokens', '?')} prompt tokens, "
    status(ended + f"{counts.get('completion_tokens', '?')} completion tokens]")
