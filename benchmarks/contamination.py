"""How many copies does `tiebreak bench` find among trained prompts, how many false alarms, how long does it take?

python benchmarks/contamination.py                                      # the table of docs/bench.md
python benchmarks/contamination.py --trained 6000 --prompts 2000        # quicker
python benchmarks/contamination.py --real a.csv b.csv                   # pairs of real prompts, the least alike shown

The prompts are drawn: lengths in words as the Arena's (median 15, mean about 50), words by Zipf's law from 30,000. Of
the suite's, a twentieth are copies of trained ones as they stand, and for each share of changed words a twentieth are
copies, of six words or more, with that share of the words (one at least) replaced by others. The rest are drawn anew; a
pair of one of them and a trained prompt is a false alarm where it is reported and is not the same text. The exit code
is 1 if a target is missed.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from tiebreak.suites.contamination import FEWEST, find_copies, find_near, read_trained
from tiebreak.suites.minhash import Vocabulary, hash_word_pairs
from tiebreak.tables.cells import normalise_prompt

WORDS, SHARES = 30_000, (0.05, 0.1, 0.15, 0.2, 0.3)
SECONDS, GIB, FOUND, ALARMS = 60, 1.0, 0.95, 1e-4


def draw(rng: np.random.Generator, count: int) -> list[list[str]]:
    lengths = np.clip(np.exp(rng.normal(np.log(15), 1.5, count)), 1, 1_500).astype(int)
    chances = 1 / (np.arange(WORDS) + 2.7)
    words = rng.choice(WORDS, int(lengths.sum()), p=chances / chances.sum())
    return [[f"w{word}" for word in part] for part in np.split(words, np.cumsum(lengths)[:-1])]


def change(rng: np.random.Generator, words: list[str], share: float) -> list[str]:
    words = list(words)
    for place in rng.choice(len(words), max(1, int(share * len(words) + 0.5)), replace=False):
        words[place] = f"w{rng.integers(WORDS)}x"
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=int, default=60_000)
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--real", type=Path, nargs=2)
    options = parser.parse_args()
    if options.real:
        real(*options.real)
        return
    rng = np.random.default_rng(1)
    trained = draw(rng, options.trained)
    each = options.prompts // 20
    long = np.flatnonzero([len(words) >= FEWEST for words in trained])
    sources = rng.choice(long, each * (1 + len(SHARES)), replace=False).reshape(-1, each)
    sources[0] = rng.choice(options.trained, each, replace=False)
    suite = [trained[i] for i in sources[0]]
    for share, places in zip(SHARES, sources[1:], strict=True):
        suite += [change(rng, trained[i], share) for i in places]
    planted = len(suite)
    suite += draw(rng, options.prompts - planted)
    prompts, texts = ([[" ".join(words)] for words in part] for part in (suite, trained))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began = time.perf_counter()
    copies = find_copies(prompts, texts)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(suite):,} prompts against {len(trained):,}: {seconds:.1f} s, {peak:.2f} GiB ({before:.2f} before)")
    vocabulary = Vocabulary()
    known = hash_word_pairs([normalise_prompt(text) for text in texts], vocabulary)
    others = hash_word_pairs([normalise_prompt(text) for text in prompts[planted:]], vocabulary)
    reported = int((find_near(others, known)[2] < 1).sum())
    pairs = len(others) * len(known)
    rate = reported / pairs
    same = copies.exact[:each].mean()
    print("\n| copies | found | of 6 to 9 words | of 10 words or more |\n|---|---|---|---|")
    print(f"| as they stand | {same:.2%} | | |")
    tenth = 0.0
    for number, share in enumerate(SHARES, 1):
        found = copies.similarity[number * each : (number + 1) * each] > 0
        lengths = np.array([len(trained[i]) for i in sources[number]])
        short, others = found[lengths < 10].mean(), found[lengths >= 10].mean()
        tenth = found.mean() if share == 0.1 else tenth
        print(f"| {share:.0%} of the words changed | {found.mean():.1%} | {short:.1%} | {others:.1%} |")
    print(f"\nfalse alarms: {reported:,} of {pairs:,} pairs, {rate:.1e}")
    missed = same < 1 or tenth < FOUND or rate > ALARMS or seconds > SECONDS or peak > GIB
    sys.exit(int(missed))


def real(first: Path, second: Path) -> None:
    mine, theirs = read_trained([first]), read_trained([second])
    copies = find_copies(mine, theirs)
    near = np.flatnonzero(copies.near)
    print(f"{len(mine):,} rows of {first.name} against {len(theirs):,} of {second.name}: ", end="")
    print(f"{copies.exact.sum():,} with the same prompt, {len(near):,} with a near-duplicate")
    shown: set[str] = set()
    for i in near[np.argsort(copies.similarity[near])]:
        text = " ".join(mine[i])[:150]
        if text not in shown and len(shown) < 25:
            shown.add(text)
            print(f"{copies.similarity[i]:.2f}\n  {text!r}\n  {' '.join(theirs[copies.place[i]])[:150]!r}")


if __name__ == "__main__":
    main()
