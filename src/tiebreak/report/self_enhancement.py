"""Self-enhancement: does the judge favour answers of its own model family, against what people say?"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tiebreak.report.bootstrap import Bootstrap
from tiebreak.report.schema import Family, SelfEnhancement

FAMILIES = {
    "gpt": ("gpt", "chatgpt", "openai", "o1", "o3", "o4", "davinci"),
    "claude": ("claude",),
    "gemma": ("gemma", "gemini", "palm", "bard", "recurrentgemma"),
    "llama": ("llama", "codellama", "alpaca", "vicuna", "koala", "guanaco", "tulu", "wizardlm"),
    "mistral": ("mistral", "mixtral", "zephyr", "openhermes"),
    "qwen": ("qwen", "qwq"),
    "deepseek": ("deepseek",),
    "yi": ("yi",),
    "command": ("command", "c4ai"),
    "glm": ("glm", "chatglm"),
    "deberta": ("deberta",),
}
"""Families by the words that name their models; models tuned from another family's weights count with it."""
LEAST_ROWS, MOST_FAMILIES = 10, 20


def family_of(model: str) -> str:
    """The family of a model's name; of an unknown one, the name up to its first word with a digit."""
    words = re.split(r"[-_/. ]+", model.casefold())
    for word in words:
        stem = re.sub(r"\d.*", "", word)
        for family, names in FAMILIES.items():
            if word in names or stem in names:
                return family
    kept: list[str] = []
    for word in words:
        if re.search(r"\d", word) and kept:
            break
        kept.append(word)
    return "-".join(kept)


def audit_families(
    probabilities: np.ndarray,
    labels: np.ndarray,
    models: Sequence[tuple[str | None, str | None]],
    judge_family: str | None,
    bootstrap: Bootstrap,
) -> SelfEnhancement | None:
    """Win rates of each family by the judge (n, 3) and by the labels (n,), over rows where one answer is its own.

    Returns:
        None where no row has the names of two different families.
    """
    known = {name: family_of(name) for name in {name for pair in models for name in pair if name}}
    families = np.array([[known.get(a or "", ""), known.get(b or "", "")] for a, b in models])
    mixed = (families[:, 0] != families[:, 1]) & (families != "").all(1)
    counts = Counter(families[mixed].ravel().tolist())
    names = [name for name, count in counts.most_common(MOST_FAMILIES) if count >= LEAST_ROWS or name == judge_family]
    if judge_family in counts and judge_family not in names:
        names.append(judge_family)
    truth = np.eye(3)[labels]
    found = []
    for name in names:
        rows = {}
        for side in (0, 1):
            mine = mixed & (families[:, side] == name)
            rows[side] = [np.where(mine, p[:, side] + p[:, 2] / 2, 0.0) for p in (probabilities, truth)]
        here = (mixed & (families == name).any(1)).astype(np.float64)
        judge, humans = (rows[0][k] + rows[1][k] for k in (0, 1))
        estimates = [bootstrap.ratio(values, here) for values in (judge, humans, judge - humans)]
        if all(estimates):
            shown = dict(zip(("judge", "humans", "excess"), estimates, strict=True))
            found.append(Family.model_validate({"family": name, "rows": int(here.sum())} | shown))
    if not found:
        return None
    own = next((entry.excess for entry in found if entry.family == judge_family), None)
    return SelfEnhancement(judge_family=judge_family, own_excess=own, families=found)
