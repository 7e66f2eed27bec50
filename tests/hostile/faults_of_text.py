"""What tables, names and the environment hold, and where it goes: terminals, logs, cards, pages."""

import csv
import re
import shutil

from fault_commands import COMMANDS, SET
from fault_harness import DONE, MISTAKE, Fault, Place, Result

EVIL = "\x1b]0;pwned\x07\x1b[2J\r\nFORGED: all is well \u202e\x9b31m"
SECRETS = {
    name: f"s3cr3t-{number:02d}-value"
    for number, name in enumerate(
        (
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "WANDB_API_KEY",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "OPENAI_API_KEY",
            "GITHUB_TOKEN",
            "MY_PASSWORD",
            "DB_SECRET",
            "SSH_KEY",
            "TIEBREAK_TOKEN",
            "SLURM_TOKEN",
            "CUDA_TOKEN",
        )
    )
}
FORGED = re.compile(r"^\W*FORGED", re.MULTILINE)
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def evil_cells(place: Place, name: str, columns: tuple[str, ...]) -> None:
    """Each cell of these columns ends in what a terminal obeys."""
    with open(place / name, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    for row in rows:
        for column in columns:
            row[header.index(column)] += EVIL
    with open(place / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def evil_header(place: Place, name: str) -> None:
    text = (place / name).read_text()
    head, rest = text.split("\n", 1)
    (place / name).write_text(
        '"' + EVIL + '",' + head.replace("prompt", "question", 1) + "\n" + re.sub("(?m)^", "x,", rest)
    )


def evil_ids_everywhere(place: Place) -> None:
    evil_cells(place, "e.csv", ("id",))
    evil_cells(place, "t.csv", ("id",))
    for path in place.folder.glob("*/predictions.csv"):
        evil_cells(place, str(path.relative_to(place.folder)), ("id",))


def no_raw_text(place: Place, result: Result) -> str:
    if FORGED.search(result.text):
        return "a value of a table forges a line of the output"
    if found := RAW.search(result.text.replace("\n", "")):
        return f"control character {found[0]!r} reaches the terminal"
    return ""


def twice_and_bad(place: Place) -> None:
    """Rows that are told: ids twice, bad cells."""
    evil_cells(place, "t.csv", ("id", "model_a"))
    with open(place / "t.csv", newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    rows[1][0] = rows[0][0]
    rows[2][header.index("prompt")] = "[" + EVIL
    rows[3][header.index("winner_tie")] = EVIL
    with open(place / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    shutil.copy(place / "t.csv", place / "e.csv")


def evil_file_name(place: Place) -> None:
    shutil.copy(place / "t.csv", place / NAME)
    shutil.copy(place / "e.csv", place / f"e{NAME}")


NAME = "<img src=x onerror=alert(1)> [x](http:evil) ` | a.csv"
MACHINE = ("/tmp/", "/root", "/home", "/work")


def secrets_stay(place: Place, result: Result) -> str:
    """No secret in anything that was printed or written."""
    values = [value.encode() for value in SECRETS.values()]
    for path in place.folder.rglob("*"):
        if path.is_file() and any(value in path.read_bytes() for value in values):
            return f"a secret of the environment stands in {path.relative_to(place.folder)}"
    return "a secret is printed" if any(value.decode() in result.text for value in values) else ""


def card_is_clean(place: Place, result: Result) -> str:
    for card in place.folder.glob("run/model/README.md"):
        text = card.read_text()
        if any(path in text for path in (*MACHINE, str(place.folder))):
            line = next(
                line for line in text.splitlines() if any(path in line for path in (*MACHINE, str(place.folder)))
            )
            return f"the card holds a path of this machine: {line[:200]}"
        text = re.sub(r"`[^`\n]*`", "", text)
        if "<img" in text or "onerror=alert" in re.sub(r"`[^`]*`", "", text) or "](http:evil)" in text:
            return "the card holds HTML or a link of a file's name"
    return ""


def page_is_clean(place: Place, result: Result) -> str:
    for page in [*place.folder.glob("r/index.html"), *place.folder.glob("w/index.html")]:
        if "<img src=x" in page.read_text():
            return "the page holds HTML of a file's name"
    return no_raw_text(place, result)


def wandb_faults() -> list[Fault]:
    """Weights & Biases without a key, without a network, and with secrets around it."""
    train = COMMANDS["train"][0]
    cold = {"cold": True, "limit_s": 180, "says": "log.wandb=offline"}
    nowhere = {"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    online, offline = ([*train, "--set", f"log.wandb={mode}"] for mode in ("online", "offline"))
    return [
        Fault("wandb, no key/train", "train", online, environment={"WANDB_API_KEY": None}, again=train, **cold),
        Fault("wandb, no network/train", "train", online, environment=nowhere, again=train, **cold),
        Fault(
            "secrets, wandb/train",
            "train",
            offline,
            environment=dict(SECRETS),
            codes=(DONE,),
            check=secrets_stay,
            cold=True,
            limit_s=180,
        ),
    ]


def faults() -> list[Fault]:
    found = []
    for command in (
        "check",
        "train",
        "predict",
        "baseline",
        "report",
        "ensemble",
        "convert",
        "attack",
        "decide",
        "leaderboard",
        "folds",
    ):
        words = COMMANDS[command][0]
        cases = {
            "ids": evil_ids_everywhere,
            "models": lambda place: [evil_cells(place, name, ("model_a", "model_b")) for name in ("t.csv", "e.csv")],
            "bad rows": twice_and_bad,
            "header": lambda place: [evil_header(place, name) for name in ("t.csv", "e.csv")],
        }
        for kind, begin in cases.items():
            found.append(
                Fault(
                    f"terminal, {kind}/{command}",
                    command,
                    words,
                    begin=begin,
                    codes=(DONE, MISTAKE),
                    check=no_raw_text,
                    compare=False,
                )
            )
        named = [NAME if word == "t.csv" else f"e{NAME}" if word == "e.csv" else word for word in words]
        check = {"train": lambda p, r: card_is_clean(p, r) or no_raw_text(p, r), "report": page_is_clean}.get(
            command, no_raw_text
        )
        found.append(
            Fault(
                f"terminal, file name/{command}",
                command,
                named,
                begin=evil_file_name,
                codes=(DONE, MISTAKE),
                check=check,
                compare=False,
            )
        )
    for command in ("train", "predict", "pipeline", "report", "folds", "merge-adapters"):
        found.append(Fault(f"secrets/{command}", command, environment=dict(SECRETS), codes=(DONE,), check=secrets_stay))
    found.append(
        Fault(
            "secrets/env", "check", ["env"], environment=dict(SECRETS), codes=(DONE,), check=secrets_stay, compare=False
        )
    )
    found += wandb_faults()
    absolute = ["train", "--recipe", "demo-deberta", "--data", "{home}/inputs/t.csv", "--out", "run", *SET]

    def with_home(place: Place) -> None:
        for file in ("t.csv",):
            shutil.copy(place / file, place / f"abs-{file}")

    found.append(
        Fault(
            "card, absolute paths/train",
            "train",
            begin=with_home,
            codes=(DONE,),
            compare=False,
            check=card_is_clean,
            words=[word.replace("{home}/inputs", "$PWD") for word in absolute],
            shell='"${@//\\$PWD/$PWD}"',
            cold=True,
        )
    )
    name = "run <b>x & [y](z) `q`"
    words = ["train", "--recipe", f"{name}.yaml", "--data", "t.csv", "--out", "run", *SET]

    def recipe(place: Place) -> None:
        (place / f"{name}.yaml").write_text("model: {base: demo-deberta, template: deberta, method: full}\n")

    def card(place: Place, result: Result) -> str:
        texts = [path.read_text() for path in place.folder.glob("run/model/README.md")]
        bad = any("<b>x" in re.sub(r"`[^`\n]*`", "", text) or "\n# FORGED" in text for text in texts)
        return "the card holds HTML or Markdown of a recipe's name" if bad else no_raw_text(place, result)

    found.append(
        Fault(
            "card, a recipe's name/train",
            "train",
            words,
            begin=recipe,
            codes=(DONE, MISTAKE),
            check=card,
            compare=False,
        )
    )
    return found
