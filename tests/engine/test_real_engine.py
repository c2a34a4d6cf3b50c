"""The real vLLM CPU server on the rehearsal checkpoint, through the official client."""

import json

import httpx
import openai
import pytest

from ascend_v4.engine.locate import find_engine, installed_version
from ascend_v4.host.system import Host
from ascend_v4.paths import engine_dir
from tests.support.engine import MODEL, USER_ENV

pytestmark = pytest.mark.real_engine

ANSWER = (
    "This is a rehearsal: the engine and its parsers are real, "
    "but this checkpoint was constructed and is not a language model."
)
REASONING = (
    "No thought happens here; these fixed words only fill the reasoning channel and then close it."
)
ANSWER_TOKENS = 19  # 18 phrases and the end of sequence
THINKING_TOKENS = 14  # 13 phrases and </think>
TOOL = {
    "type": "function",
    "function": {
        "name": "rehearse",
        "description": "Rehearses a tool call.",
        "parameters": {"type": "object", "properties": {"note": {"type": "string"}}},
    },
}
OFF = {"chat_template_kwargs": {"thinking": False}}
HIGH = {"chat_template_kwargs": {"thinking": True, "reasoning_effort": "high"}}


@pytest.fixture(scope="module")
def client(rehearsal_server):
    return openai.OpenAI(base_url=f"{rehearsal_server.url}/v1", api_key="none", max_retries=0)


def ask(client, mode, question="Grüß Gott", **more):
    messages = more.pop("messages", [{"role": "user", "content": question}])
    return client.chat.completions.create(model=MODEL, messages=messages, extra_body=mode, **more)


def echo(server, mode, question="Grüß Gott"):
    """Return the prompt as the server encodes it, through ``/tokenize`` and back."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], **mode}
    tokens = httpx.post(f"{server.url}/tokenize", json=body).json()
    body = {"model": MODEL, "tokens": tokens["tokens"]}
    text = httpx.post(f"{server.url}/detokenize", json=body).json()["prompt"]
    return tokens["count"], text


def test_the_engine_reports_its_version(cpu_engine, rehearsal_server):
    assert installed_version(cpu_engine) == "0.32.0+cpu"
    assert find_engine(Host(env=USER_ENV), "cpu", engine_dir(USER_ENV, "cpu")) == cpu_engine
    version = httpx.get(f"{rehearsal_server.url}/version").json()
    assert version == {"version": "0.32.0"}


def test_without_thinking_it_answers_at_once(client, rehearsal_server):
    reply = ask(client, OFF)
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.reasoning) == (ANSWER, None)
    assert choice.finish_reason == "stop"
    count, text = echo(rehearsal_server, OFF)
    assert text == "<｜begin▁of▁sentence｜><｜User｜>Grüß Gott<｜Assistant｜></think>"
    assert count == 4 + len("Grüß Gott".encode())
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (count, ANSWER_TOKENS)


@pytest.mark.parametrize("effort", ["high", "max"])
def test_with_thinking_it_fills_the_reasoning_channel_first(client, rehearsal_server, effort):
    mode = {"chat_template_kwargs": {"thinking": True, "reasoning_effort": effort}}
    reply = ask(client, mode)
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.reasoning) == (ANSWER, REASONING)
    assert choice.finish_reason == "stop"
    count, text = echo(rehearsal_server, mode)
    assert text.startswith("<｜begin▁of▁sentence｜>Reasoning Effort: ")
    assert text.endswith("<｜User｜>Grüß Gott<｜Assistant｜><think>")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (
        count,
        THINKING_TOKENS + ANSWER_TOKENS,
    )


@pytest.mark.parametrize(("mode", "reasoning"), [(OFF, ""), (HIGH, REASONING)])
def test_streaming_sends_reasoning_then_the_answer_in_pieces(client, mode, reasoning):
    stream = ask(client, mode, stream=True, stream_options={"include_usage": True})
    channels, thought, said, finishes, usage = [], "", "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            thinking = getattr(choice.delta, "reasoning", None)
            if thinking:
                channels.append("reasoning")
                thought += thinking
            if choice.delta.content:
                channels.append("content")
                said += choice.delta.content
            if choice.finish_reason:
                finishes.append(choice.finish_reason)
    assert (thought, said, finishes) == (reasoning, ANSWER, ["stop"])
    assert channels == sorted(channels, reverse=True)  # never back to reasoning
    assert channels.count("content") >= 5
    assert usage.completion_tokens == ANSWER_TOKENS + (THINKING_TOKENS if reasoning else 0)


def test_it_stops_where_it_is_told_to(client):
    reply = ask(client, OFF, max_tokens=4)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == "This is a rehearsal:"
    assert reply.usage.completion_tokens == 4


def test_sampling_cannot_change_the_words(client):
    replies = {ask(client, OFF, temperature=1.5, seed=n).choices[0].message.content for n in (1, 2)}
    assert replies == {ANSWER}


@pytest.mark.parametrize(("mode", "reasoning"), [(OFF, None), (HIGH, REASONING)])
def test_an_offered_tool_is_called_and_its_result_is_answered(client, mode, reasoning):
    first = ask(client, mode, tools=[TOOL])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert (message.content or "", message.reasoning) == ("", reasoning)
    call = message.tool_calls[0]
    assert (len(message.tool_calls), call.function.name) == (1, "rehearse")
    assert json.loads(call.function.arguments) == {"note": "This is a rehearsal."}
    second = ask(
        client,
        mode,
        tools=[TOOL],
        messages=[
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ],
    )
    assert second.choices[0].message.content == ANSWER
    assert second.choices[0].finish_reason == "stop"


def test_a_tool_of_another_name_is_not_called(client):
    other = {"type": "function", "function": {**TOOL["function"], "name": "get_weather"}}
    choice = ask(client, OFF, tools=[other]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert not choice.message.tool_calls


def test_a_wrong_model_name_is_an_error(client):
    with pytest.raises(openai.NotFoundError, match="`other` does not exist"):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
