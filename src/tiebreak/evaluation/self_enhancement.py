"""Self-enhancement: does the judge favour answers of its own model family, against what people say?"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.schema import Family, SelfEnhancement

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
    # The win of the first answer, a tie counting half; that of the second is the rest.
    won = {"judge": probabilities[:, 0] + probabilities[:, 2] / 2, "humans": np.array([1.0, 0.0, 0.5])[labels]}
    audited: list[Family] = []
    ratios: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows: dict[str, int] = {}
    for name in names:
        first, second = (mixed & (families[:, side] == name) for side in (0, 1))
        wins = {who: np.where(first, share, np.where(second, 1 - share, 0)) for who, share in won.items()}
        wins["excess"] = wins["judge"] - wins["humans"]
        rows[name] = int((first | second).sum())
        ratios |= {f"{who} {name}": (values, first | second) for who, values in wins.items()}
    if ratios:
        estimates = bootstrap.ratios(**ratios)
        for name in names:
            shown = {who: estimates[f"{who} {name}"] for who in ("judge", "humans", "excess")}
            if all(shown.values()):
                audited.append(Family.model_validate({"family": name, "rows": rows[name]} | shown))
    if not audited:
        return None
    own = next((entry.excess for entry in audited if entry.family == judge_family), None)
    return SelfEnhancement(judge_family=judge_family, own_excess=own, families=audited)
