"""Search for inputs that a reader neither reads nor tells: `python tests/hostile/fuzz.py TARGET --minutes 30`.

Guided by coverage where `pip install atheris` is there, else by chance. The input of a fault is left in --out, and
belongs into the tests.
"""

import argparse
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path

MEMORY = 4 << 30
SECONDS = 20


def guided(target: str, minutes: float, out: Path) -> None:
    """Run libFuzzer, which ends this process; raises ImportError without atheris."""
    import atheris

    with atheris.instrument_imports(include=["tiebreak"], enable_loader_override=False):
        import readers
    kept = out / f"{target}.corpus"
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(readers.seeds(target)):
        (kept / f"seed-{number}").write_bytes(seed)
    words = [f"-max_total_time={int(60 * minutes)}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY >> 20}"]
    words += ["-max_len=65536", f"-artifact_prefix={out}/{target}-", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *words, str(kept)], lambda data: readers.run(readers.READERS[target], data))
    atheris.Fuzz()


def unguided(target: str, minutes: float, out: Path) -> int:
    """Change good inputs at random; returns 1 at the first fault."""
    import readers

    soft = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (32 << 30, soft))
    good, rng, began, count = readers.seeds(target), random.Random(os.getpid()), time.monotonic(), 0
    while time.monotonic() - began < 60 * minutes:
        data = mutated(rng.choice(good), rng)
        started = time.monotonic()
        try:
            readers.run(readers.READERS[target], data)
            if (took := time.monotonic() - started) > SECONDS:
                raise TimeoutError(f"{took:.0f} s")
        except Exception:
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{target}-crash-{count}"
            path.write_bytes(data)
            traceback.print_exc()
            print(f"after {count:,} inputs: {path}")
            return 1
        count += 1
    print(f"{count:,} inputs in {minutes:g} minutes, no fault")
    return 0


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut, doubled or replaced by numbers and marks that readers trip over."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place, length = rng.randrange(len(content) + 1), rng.randint(1, 40)
        piece = rng.choice(
            [b"", b"\x00", b"\xff\xff", b'"', b"[" * 90, b"-1", b"1e400", b"NaN", b"9" * 30, b"\n", b"{}"]
        )
        how = rng.randrange(4)
        if how == 0:
            content[place : place + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            content[place : place + length] = piece
        elif how == 2:
            content[place:place] = content[place : place + length] or piece
        else:
            del content[place : place + length]
    return bytes(content)


def main() -> int:
    """Run one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["tables", "predictions", "recipes", "parts", "manifests", "weights"])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where inputs are kept")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input and stop")
    parser.add_argument("--unguided", action="store_true", help="by chance, also where atheris is there")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.replay:
        import readers

        readers.run(readers.READERS[options.target], options.replay.read_bytes())
        return 0
    try:
        if not options.unguided:
            guided(options.target, options.minutes, options.out)
    except ImportError:
        print("atheris is not installed: inputs are changed by chance")
    return unguided(options.target, options.minutes, options.out)


if __name__ == "__main__":
    sys.exit(main())
