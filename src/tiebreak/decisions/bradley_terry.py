"""Bradley-Terry ratings with covariates, from votes, from a judge's probabilities, or from both.

Model (Bradley & Terry 1952, Biometrika 39): the log odds that the first answer of a row is preferred are
`rating[first] - rating[second] + features @ effects`; a tie is half a win for each, a judge's probabilities are a win
in part. The gradient of a row's loss is a number times its row of the design, which has two entries beside the
features: a million rows need no table of rows by models.
"""

from dataclasses import dataclass

import numpy as np

BLOCK = 16_384
"""Rows whose features are looked at together: few enough for a processor's cache."""


@dataclass(frozen=True)
class Design:
    """Who meets whom in each row, and what else may sway it.

    Parameters are in one vector (p,): the ratings of the models, then the effects of the features.

    Attributes:
        first: int (n,), the model of answer A. second: of answer B. models: how many there are.
        features: (n, k), each changing its sign with the order of the answers.
    """

    first: np.ndarray
    second: np.ndarray
    models: int
    features: np.ndarray

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self.models + int(self.features.shape[1])

    def log_odds(self, theta: np.ndarray) -> np.ndarray:
        """Log odds (n,) that the first answer is preferred."""
        odds: np.ndarray = theta[self.first] - theta[self.second]
        for start in range(0, len(odds) if self.features.shape[1] else 0, BLOCK):
            odds[start : start + BLOCK] += self.features[start : start + BLOCK] @ theta[self.models :]
        return odds

    def moments(self, values: np.ndarray) -> np.ndarray:
        """The sum (p,) of values (n,) times the rows of the design."""
        ratings = np.bincount(self.first, values, self.models) - np.bincount(self.second, values, self.models)
        effects = np.zeros(self.features.shape[1])
        for start in range(0, len(values), BLOCK):
            effects += values[start : start + BLOCK] @ self.features[start : start + BLOCK]
        return np.concatenate([ratings, effects])

    def gram(self, values: np.ndarray) -> np.ndarray:
        """The sum (p, p) of values (n,) times the outer products of the rows of the design with themselves."""
        m, gram = self.models, np.zeros((self.size, self.size))
        pairs = self.first.astype(np.int64) * m + self.second
        met = np.bincount(pairs, values, m * m).reshape(m, m)
        met += met.T
        gram[:m, :m] = np.diag(met.sum(1)) - met
        for column in range(self.features.shape[1]):
            weighted = values * self.features[:, column]
            gram[:m, m + column] = np.bincount(self.first, weighted, m) - np.bincount(self.second, weighted, m)
        for start in range(0, len(values), BLOCK):
            block = self.features[start : start + BLOCK].astype(np.float64)
            gram[m:, m:] += (block * values[start : start + BLOCK, None]).T @ block
        gram[m:, :m] = gram[:m, m:].T
        return gram

    def rows(self, chosen: np.ndarray) -> "Design":
        """The design of some rows, a mask (n,) or their numbers."""
        return Design(self.first[chosen], self.second[chosen], self.models, self.features[chosen])

    def grouped_gram(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The sum (p, p) over groups of s s', where s is the sum of values (n,) times the rows of a group.

        Rows that are alone in their group need no sum; of the others, sparse tables of some groups by parameters do.
        """
        numbers = np.unique(groups, return_inverse=True)[1]
        alone = np.bincount(numbers)[numbers] == 1
        total = self.rows(alone).gram(values[alone] ** 2)
        rest = np.flatnonzero(~alone)
        rest = rest[np.argsort(numbers[rest], kind="stable")]
        last = np.append(np.diff(numbers[rest]) > 0, len(rest) > 0) if len(rest) else np.zeros(0, dtype=bool)
        start = 0
        for end in (np.flatnonzero(last) + 1).tolist():
            if end - start >= BLOCK or end == len(rest):
                part, start = rest[start:end], end
                total += self.rows(part)._squared_sums(values[part], numbers[part] - numbers[part[0]])
        return total

    def _squared_sums(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """`grouped_gram` of few rows, whose groups are numbered from 0."""
        from scipy import sparse

        effects = np.arange(self.models, self.size).repeat(len(values))
        columns = np.concatenate([self.first, self.second, effects])
        entries = np.concatenate([values, -values, (self.features.T * values).ravel()])
        lines = np.tile(groups, 2 + self.features.shape[1])
        table = sparse.csr_matrix((entries, (lines, columns)), (int(groups.max()) + 1, self.size))
        return np.asarray((table.T @ table).todense())

    def leverage(self, inverse: np.ndarray) -> np.ndarray:
        """x' inverse x (n,) of each row x of the design."""
        m = self.models
        ratings, effects = inverse[:m, :m], inverse[m:, m:]
        own = np.diag(ratings)
        lever: np.ndarray = own[self.first] + own[self.second] - 2 * ratings[self.first, self.second]
        if self.features.shape[1]:
            cross = inverse[:m, m:]
            lever = lever + 2 * ((cross[self.first] - cross[self.second]) * self.features).sum(1)
            lever = lever + ((self.features @ effects) * self.features).sum(1)
        return np.asarray(lever)


@dataclass(frozen=True)
class Fit:
    """Estimated parameters (p,), ratings with mean zero, and their covariance (p, p).

    `power` is how far the judge's probabilities are trusted, 0 to 1: 0 without them, 1 without votes.
    `freedom` is the number of prompt groups that the covariance rests on, less the parameters.
    """

    theta: np.ndarray
    covariance: np.ndarray
    power: float
    freedom: int


def solve(design: Design, wins: np.ndarray, curve: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """The parameters (p,) of least loss, by Newton's method with halved steps.

    The loss is the sum over rows of `curve * log(1 + exp(log odds)) - wins * log odds`: logistic regression, in which
    `wins` is the weight of a row that its first answer wins, and `curve` all its weight.

    Args:
        design: of n rows.
        wins: (n,); a tie is half a win.
        curve: (n,), not below zero.
        start: (p,), where to begin.

    Raises:
        ArithmeticError: no optimum: some rating or effect has no bound.
    """
    theta = np.zeros(design.size) if start is None else start
    won = design.moments(wins)

    def look(theta: np.ndarray) -> tuple[float, np.ndarray]:
        odds = design.log_odds(theta)
        # log(1 + exp(x)), without the slow general form of logaddexp.
        return float(curve @ (np.log1p(np.exp(-np.abs(odds))) + np.maximum(odds, 0)) - won @ theta), odds

    value, odds = look(theta)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-odds))
        gradient = design.moments(curve * chance) - won
        step = np.linalg.lstsq(_fixed(design, curve * chance * (1 - chance)), gradient, rcond=None)[0]
        decrement, size = float(gradient @ step), 1.0
        if decrement < CLOSE * curve.sum():
            return np.asarray(theta - step)
        tried, odds = look(theta - step)
        while tried > value - 0.1 * size * decrement and size > 1e-3:
            size /= 2
            tried, odds = look(theta - size * step)
        theta, value = theta - size * step, tried
        if np.abs(theta).max() > UNBOUNDED:
            break
    raise ArithmeticError("a rating or an effect grows without a bound")


UNBOUNDED, STEPS = 30.0, 60
"""Log odds that no table of people's choices can tell from certainty; Newton steps, of which some five are needed."""
CLOSE = 1e-12
"""Nats a row that a step is expected to save; that step is taken, and what it leaves is rounding."""


def _fixed(design: Design, values: np.ndarray) -> np.ndarray:
    """The Hessian with the mean of the ratings held: only their differences are known."""
    hessian = design.gram(values)
    hessian[: design.models, : design.models] += np.trace(hessian) / design.size**2
    return hessian


def fit_votes(design: Design, outcomes: np.ndarray, groups: np.ndarray) -> Fit:
    """Ratings and effects from outcomes of every row, with a covariance that holds for resampled prompt groups.

    The covariance is the sandwich over groups, which is that of a bootstrap of groups to first order (Cameron & Miller
    2015, Journal of Human Resources 50), its residuals scaled for the leverage of their group (HC2: MacKinnon & White
    1985, Journal of Econometrics 29).

    Args:
        design: of n rows.
        outcomes: (n,), wins of the first answer.
        groups: (n,), equal for rows of one prompt.
    """
    return fit_both(design, outcomes, np.zeros(len(outcomes)), np.ones(len(outcomes), dtype=bool), groups, 0.0)


def fit_both(
    design: Design,
    votes: np.ndarray,
    judged: np.ndarray,
    labelled: np.ndarray,
    groups: np.ndarray,
    power: float | None = None,
    start: np.ndarray | None = None,
) -> Fit:
    """Ratings and effects from a judge's probabilities on all rows, corrected by people's votes on some.

    Prediction-powered inference (Angelopoulos, Duchi & Zrnic 2023, "PPI++", arXiv 2311.01453): the loss is
    `power * judge's loss on the rows without votes + people's loss - power * judge's loss on the rows with votes`, each
    a mean over rows. Its optimum is right for people's votes however wrong the judge is, if the rows with votes are a
    random part of all; the power that makes the variance of the ratings least is estimated.

    Args:
        design: of n rows.
        votes: (n,), wins of the first answer by people; not looked at where there are none.
        judged: (n,), wins by the judge.
        labelled: mask (n,) of the rows with votes.
        groups: (n,), equal for rows of one prompt.
        power: between 0 and 1; None: estimated.
        start: (p,), parameters near the optimum, such as the judge's own.

    Raises:
        ArithmeticError: no optimum.
    """
    count, rest, theta = int(labelled.sum()), int((~labelled).sum()), start
    if not count:  # the judge alone
        return fit_both(design, judged, judged, ~labelled, groups, 0.0)
    if not rest:
        power = 0.0
    if power is None:
        theta = _optimum(design, votes, judged, labelled, 1.0, start)
        power = _best_power(design, votes, judged, labelled, theta)
    theta = _optimum(design, votes, judged, labelled, power, theta)
    chance = 1 / (1 + np.exp(-design.log_odds(theta)))
    slope = chance * (1 - chance)
    inverse = np.linalg.inv(_fixed(design, slope * _curve(labelled, power)))
    residual = np.where(labelled, (chance - votes - power * (chance - judged)) / count, 0.0)
    lever = (1 - power) / count * slope[labelled] * design.rows(labelled).leverage(inverse)
    numbers = np.unique(groups[labelled], return_inverse=True)[1]
    residual[labelled] /= np.sqrt(1 - np.clip(np.bincount(numbers, lever)[numbers], 0, 0.9))
    if rest:
        residual += np.where(labelled, 0.0, power * (chance - judged) / rest)
    meat = _centred(design, residual, labelled, groups) if rest and power else design.grouped_gram(residual, groups)
    covariance = inverse @ meat @ inverse
    clusters = int(numbers.max()) + 1
    used = int((np.diag(design.gram(np.ones(len(votes)))) > 0).sum()) - 1
    covariance *= clusters / max(1, clusters - 1)
    return Fit(theta, covariance, power, max(1, clusters - used))


def _curve(labelled: np.ndarray, power: float) -> np.ndarray:
    """The weight (n,) of each row in the model's part of the loss."""
    count, rest = labelled.sum(), (~labelled).sum()
    return np.asarray(np.where(labelled, (1 - power) / max(1, count), power / max(1, rest)))


def _optimum(
    design: Design,
    votes: np.ndarray,
    judged: np.ndarray,
    labelled: np.ndarray,
    power: float,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """The parameters (p,) of least loss at a power."""
    count, rest = max(1, int(labelled.sum())), max(1, int((~labelled).sum()))
    wins = np.where(labelled, (np.where(labelled, votes, 0.0) - power * judged) / count, power * judged / rest)
    return solve(design, wins, _curve(labelled, power), start)


def _best_power(
    design: Design, votes: np.ndarray, judged: np.ndarray, labelled: np.ndarray, theta: np.ndarray
) -> float:
    """The power of least summed variance of the ratings, from the gradients at theta (section 6 of PPI++)."""
    chance = 1 / (1 + np.exp(-design.log_odds(theta)))
    count, rest = int(labelled.sum()), int((~labelled).sum())
    inverse = np.linalg.inv(_fixed(design, chance * (1 - chance) * _curve(labelled, 1.0)))
    people, judge = np.where(labelled, chance - votes, 0.0), chance - judged
    mine, all_ = design.rows(labelled), design

    def spread(values: np.ndarray, part: Design, means: tuple[np.ndarray, np.ndarray]) -> float:
        covariance = part.gram(values) / len(values) - np.outer(*means)
        return float(np.trace((inverse @ covariance @ inverse)[: design.models, : design.models]))

    mean_people, mean_judge = mine.moments(people[labelled]) / count, mine.moments(judge[labelled]) / count
    shared = spread(people[labelled] * judge[labelled], mine, (mean_people, mean_judge))
    own = spread(judge**2, all_, (design.moments(judge) / len(judge),) * 2)
    return float(np.clip(shared / ((1 + count / rest) * own), 0, 1)) if own > 0 else 0.0


def _centred(design: Design, residual: np.ndarray, labelled: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The sum over groups of outer products, each part about its own mean: both means together are zero.

    A group's share of the rows with votes takes its share of their mean away, and so on the other side.
    """
    mean = design.moments(np.where(labelled, residual, 0.0))
    numbers = np.unique(groups, return_inverse=True)[1]
    shares = np.bincount(numbers, labelled) / labelled.sum() - np.bincount(numbers, ~labelled) / (~labelled).sum()
    crossed = np.outer(design.moments(shares[numbers] * residual), mean)
    raw = design.grouped_gram(residual, numbers)
    centred: np.ndarray = raw - crossed - crossed.T + (shares**2).sum() * np.outer(mean, mean)
    return centred
