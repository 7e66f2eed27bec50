"""How a pair becomes text: the fixed pieces around prompt, first answer and second answer."""

import re
from dataclasses import dataclass

SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
PLAIN = ("[INST]",)
"""What looks like a special token and is ordinary text to the family that was trained with it."""
QUESTION = "Two assistants answered the same user. Which answer would people prefer, or is it a tie?"


@dataclass(frozen=True)
class Template:
    """A row is head + prompt + before_first + answer + before_second + answer + tail.

    With `sides` it is two texts instead, each head + prompt + before_first + answer + tail.

    `turn` stands between the turns of one part. `added` are special tokens that the tokenizer needs
    to learn. Fixed pieces may hold special tokens; the users' text never does (it is tokenised with
    special tokens split, so that a prompt cannot forge a boundary).
    """

    head: str
    before_first: str
    before_second: str
    tail: str
    turn: str
    added: tuple[str, ...] = ()
    sides: bool = False


TEMPLATES = {
    "gemma2": Template(
        head=f"<bos><start_of_turn>user\n{QUESTION}\n\nPrompt:\n",
        before_first="\n\nAnswer A:\n",
        before_second="\n\nAnswer B:\n",
        tail="<end_of_turn>\n<start_of_turn>model\nVerdict:",
        turn="\n\nNext turn:\n",
    ),
    "llama2": Template(
        head=f"<s>[INST] {QUESTION}\n\nPrompt:\n",
        before_first="\n\nAnswer A:\n",
        before_second="\n\nAnswer B:\n",
        tail=" [/INST] Verdict:",
        turn="\n\nNext turn:\n",
    ),
    "llama3": Template(
        head=f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{QUESTION}\n\nPrompt:\n",
        before_first="\n\nAnswer A:\n",
        before_second="\n\nAnswer B:\n",
        tail="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nVerdict:",
        turn="\n\nNext turn:\n",
        added=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "qwen2": Template(
        head=f"<|im_start|>user\n{QUESTION}\n\nPrompt:\n",
        before_first="\n\nAnswer A:\n",
        before_second="\n\nAnswer B:\n",
        tail="<|im_end|>\n<|im_start|>assistant\nVerdict:",
        turn="\n\nNext turn:\n",
        added=("<|im_start|>", "<|im_end|>"),
    ),
    "deberta": Template(
        head="[CLS][PROMPT]",
        before_first="[SEP][ANSWER_A]",
        before_second="[SEP][ANSWER_B]",
        tail="[SEP]",
        turn="[TURN]",
        added=("[PROMPT]", "[ANSWER_A]", "[ANSWER_B]", "[TURN]"),
    ),
    "siamese": Template(
        head="[CLS][PROMPT]",
        before_first="[SEP][ANSWER]",
        before_second="",
        tail="[SEP]",
        turn="[TURN]",
        added=("[PROMPT]", "[ANSWER]", "[TURN]"),
        sides=True,
    ),
    "plain": Template(
        head=f"{QUESTION}\n\nPrompt:\n",
        before_first="\n\nAnswer A:\n",
        before_second="\n\nAnswer B:\n",
        tail="\n\nVerdict:",
        turn="\n\nNext turn:\n",
    ),
}


def special_tokens(template: Template) -> list[str]:
    """The special tokens that a template names, each once: every one must be a single id of the tokenizer."""
    text = "\n".join((template.head, template.before_first, template.before_second, template.tail, template.turn))
    return [token for token in dict.fromkeys(SPECIAL.findall(text)) if token not in PLAIN]
