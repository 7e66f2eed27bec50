"""Fitting a row into its token limit: how a budget is shared over prompt and answers, turn by turn.

A row's three parts are lists of turns, each a list of token ids. Every policy treats the two answers
alike, so a row and its A/B swap keep the same tokens, and leaves each non-empty answer a share.
"""

from collections.abc import Sequence

Turns = Sequence[Sequence[int]]
PROMPT_WEIGHT, ANSWER_WEIGHT = 1, 2
LEAST_PER_TURN = 8


def share(budget: int, needs: Sequence[int], weights: Sequence[int] | None = None) -> list[int]:
    """Share a budget over parts by weight; what a part does not need goes to the others.

    Equal needs with equal weights get equal shares; up to `len(needs) - 1` tokens stay unused for that.
    """
    weights = weights or [1] * len(needs)
    granted = [0] * len(needs)
    waiting = [k for k, need in enumerate(needs) if need > 0]
    while waiting:
        total = sum(weights[k] for k in waiting)
        content = [k for k in waiting if needs[k] <= budget * weights[k] // total]
        if not content:
            for k in waiting:
                granted[k] = budget * weights[k] // total
            break
        for k in content:
            granted[k] = needs[k]
        budget -= sum(needs[k] for k in content)
        waiting = [k for k in waiting if k not in content]
    return granted


def head_and_tail(tokens: Sequence[int], limit: int) -> Sequence[int]:
    """Keep the first and last tokens of a text, `limit` together: openings and conclusions matter most."""
    if len(tokens) <= limit:
        return tokens
    tail = limit // 2
    return [*tokens[: limit - tail], *tokens[len(tokens) - tail :]]


def cut_turns(parts: Sequence[Turns], budget: int, policy: str, turn: Sequence[int], prompt_cap: int) -> list[Turns]:
    """Cut a row's parts to `budget` tokens together, turn separators included.

    Args:
        parts: prompt, first and second answer.
        budget: most tokens of the three together, at least 3.
        policy: `spread` shares the budget 1:2:2 over prompt and answers, then equally over each
            part's turns, and keeps the head and tail of a turn that is too long; `tail-trim` caps the
            prompt, then trims the end of the longer answer; `right` shares as `spread` and keeps the
            beginning of each part.
        turn: the separator's tokens, between two turns of a part.
        prompt_cap: most tokens of the prompt under `tail-trim`.

    Returns:
        The turns that are kept of prompt, first and second answer, equally many each, without separators.
    """
    needs = [sum(map(len, part)) for part in parts]
    separators = sum(len(turn) * (len(part) - 1) for part in parts)
    if sum(needs) + separators <= budget:
        return list(parts)
    most_turns = max(1, budget // (3 * (len(turn) + LEAST_PER_TURN)))
    parts = [_run_together(part, most_turns) for part in parts]
    budget -= sum(len(turn) * (len(part) - 1) for part in parts)
    if policy == "tail-trim":
        cap = min(needs[0], prompt_cap, budget // 2)
        granted = [cap, *share(budget - cap, needs[1:])]
    else:
        granted = share(budget, needs, (PROMPT_WEIGHT, ANSWER_WEIGHT, ANSWER_WEIGHT))
    return [cut_part(part, limit, policy) for part, limit in zip(parts, granted, strict=True)]


def cut_part(part: Turns, limit: int, policy: str) -> Turns:
    """A part's turns cut to `limit` tokens together: each turn's head and tail under `spread`, else its beginning."""
    return _cut_each_turn(part, limit) if policy == "spread" else _keep_beginning(part, limit)


def _run_together(part: Turns, most_turns: int) -> Turns:
    """Earlier turns made one, so that separators do not eat the budget of a very long conversation."""
    if len(part) <= most_turns:
        return part
    early = len(part) - most_turns + 1
    return [[token for tokens in part[:early] for token in tokens], *part[early:]]


def _cut_each_turn(part: Turns, limit: int) -> Turns:
    limits = share(limit, [len(tokens) for tokens in part])
    return [head_and_tail(tokens, most) for tokens, most in zip(part, limits, strict=True)]


def _keep_beginning(part: Turns, limit: int) -> Turns:
    kept = []
    for tokens in part:
        kept.append(tokens[:limit])
        limit -= len(kept[-1])
    return kept


def join_turns(part: Turns, turn: Sequence[int]) -> list[int]:
    """Join a part's turns with the separator `turn` between them."""
    joined = list(part[0]) if part else []
    for tokens in part[1:]:
        joined += [*turn, *tokens]
    return joined
