"""Conversations as public data sets store them -> the turns of a prompt and of its answers."""

import json
import re
from collections import Counter
from typing import Any

from tiebreak.tables.cells import CellError

Turns = list[str | None]
USER, ASSISTANT = {"user", "human", "prompter"}, {"assistant", "gpt", "model", "bot"}
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


def read_sides(a: object, b: object, counts: Counter[str]) -> tuple[Turns, Turns, Turns]:
    """Two conversations about the same questions.

    Returns:
        The questions, and the answers of each conversation: one for each question.

    Raises:
        CellError: something else than a conversation, or other questions on one side.
    """
    (prompt, answers_a), (other, answers_b) = read_conversation(a, counts), read_conversation(b, counts)
    if prompt != other:
        raise CellError(f"the two conversations ask different questions ({len(prompt)} and {len(other)} user turns)")
    return prompt, answers_a, answers_b


def read_conversation(value: object, counts: Counter[str]) -> tuple[Turns, Turns]:
    """A list of messages, or the same as a JSON string: questions, and an answer (or None) to each.

    A message is `{role, content}` or `{from, value}`; content is a text, or a list of parts such as
    `{"type": "text", "text": ...}`. Messages of one speaker in a row are joined by a blank line. System messages and
    parts that are not text are left out, and counted.

    Raises:
        CellError: something else.
    """
    messages: Any = value
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (json.JSONDecodeError, RecursionError):
            raise CellError("text instead of a conversation, a list of messages with role and content") from None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise CellError(f"{type(messages).__name__} instead of a conversation, a list of messages")
    rounds: list[tuple[Turns, Turns]] = []
    last = ""
    for message in messages:
        role = str(message.get("role", message.get("from"))).lower()
        text = _text_of(message.get("content", message.get("value")), counts)
        if role in USER:
            if last != "user":
                rounds.append(([], []))
            rounds[-1][0].append(text)
            last = "user"
        elif role in ASSISTANT:
            if not rounds:
                raise CellError("a conversation that begins with an answer")
            rounds[-1][1].append(text)
            last = "assistant"
        elif role in ("system", "developer", "tool"):
            counts[f"{role} messages left out"] += 1
        else:
            raise CellError(f"a message of role {role[:20]!r}, not user, assistant or system")
    if not rounds:
        raise CellError("a conversation without a question")
    return [_joined(asked) for asked, _ in rounds], [_joined(answered) for _, answered in rounds]


def read_dialogue(text: str) -> tuple[Turns, Turns]:
    """A dialogue in one text, its speakers `Human:` and `Assistant:` after blank lines: questions and answers.

    Raises:
        CellError: another beginning.
    """
    pieces = _SPEAKER.split(text.strip())
    if pieces[0] or pieces[1:2] != ["Human"]:
        raise CellError("a dialogue that does not begin with Human:")
    speakers = zip(pieces[1::2], pieces[2::2], strict=True)
    messages = [{"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in speakers]
    return read_conversation(messages, Counter())


def _joined(texts: Turns) -> str | None:
    """Messages of one speaker in a row, as one text; None if there is none."""
    there = [text for text in texts if text is not None]
    return "\n\n".join(there) if there else None


def _text_of(content: object, counts: Counter[str]) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise CellError(f"a message whose content is a {type(content).__name__}")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict):
            counts["images and other parts left out"] += 1
        else:
            raise CellError(f"a message with a part that is a {type(part).__name__}")
    return "\n".join(texts)
