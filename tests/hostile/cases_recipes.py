"""Recipes, changes, ladders, pipelines and DeepSpeed files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collecting import Make, Part, prints
from harness import Outcome, Words, World

PART = Part("recipes")
GOOD = "model:\n  base: demo-deberta\n  template: deberta\ntrain:\n  max_steps: 1\n"


def recipe(content: str | bytes, *words: str, name: str = "r.yaml") -> Make:
    """A recipe file, read by `recipes`, which prints it, or by another command."""

    def make(folder: Path, _: World) -> Words:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return words or ["recipes", name]

    return make


def train(folder: Path, world: World, *changes: str, base: str = "demo-deberta") -> Words:
    world.copy("t.csv", folder)
    sets = [word for change in changes for word in ("--set", change)]
    return ["train", "--recipe", base, "--data", "t.csv", "--out", "run", *sets]


def aliases(depth: int) -> str:
    """Each line holds the one before ten times."""
    rows = [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x,x]", *rows]) + "\n"


for label, content, says in (
    ("aliases that double", aliases(12), ("r.yaml",)),
    ("aliases that double inside a field", aliases(12) + "model: {base: *a11}\n", ("r",)),
    ("an anchor that holds itself", "model: &m\n  base: *m\n", ("r",)),
    ("a list that holds itself", "model:\n  base: demo-deberta\n  layers: &l [*l]\n", ("r",)),
    ("merge keys that double", "\n".join(["a0: &a0 {k: 1}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, 40)]), ("r",)),
    ("nested 100,000 deep", "{a: " * 100_000, ("r.yaml",)),
    ("nested lists 5,000 deep", "model: " + "[" * 5_000 + "]" * 5_000, ("r",)),
    ("a tag of Python", "model: !!python/object/apply:os.system ['touch pwned']\n", ("r.yaml",)),
    ("a tag of Python's module", "model: !!python/module:os\n", ("r.yaml",)),
    ("a tag of its own", "model: !evil {base: x}\n", ("r.yaml",)),
    ("binary that is none", "model: !!binary '%%%'\n", ("r.yaml",)),
    ("a set", "model: !!set {base, template}\n", ("r",)),
    ("an ordered map", "model: !!omap [base: demo-deberta]\n", ("r",)),
    ("two documents", GOOD + "---\n" + GOOD, ("r.yaml",)),
    ("a key of a list", "? [a, b]\n: 1\n", ("r",)),
    ("a key of null", "~: 1\n" + GOOD, ("r",)),
    ("a key of a number", "5: 1\n" + GOOD, ("r",)),
    ("a key of 1 MB", "a" * 1_000_000 + ": 1\n" + GOOD, ("r",)),
    ("10 MB of comments and then nothing", "# x\n" * 2_500_000, ("r.yaml",)),
    ("60 MB of one string", "model: '" + "x" * 60_000_000 + "'\n", ("r.yaml",)),
    ("a field of 100,000 entries", GOOD + "data:\n  features: [" + "length, " * 100_000 + "]\n", ("r",)),
    ("100,000 unknown fields", GOOD + "".join(f"f{n}: 1\n" for n in range(100_000)), ("r.yaml", "more than 30,000")),
    ("tabs for spaces", GOOD.replace("  ", "\t"), ("r.yaml",)),
    ("NUL", GOOD + "\x00", ("r.yaml",)),
    ("latin-1", (GOOD + "description: \xe9\n").encode("latin-1"), ("r.yaml",)),
    ("UTF-32", GOOD.encode("utf-32"), ("r.yaml",)),
    ("JSON with a tab", '{"model":\t{"base": "demo-deberta", "base": "x"}}', ("r.yaml",)),
    ("a word", "hello", ("r.yaml",)),
    ("nothing", "", ("r.yaml",)),
    ("a directive of another version", "%YAML 9.9\n---\n" + GOOD, ("r.yaml",)),
    ("a Norwegian no for a name", GOOD + "name: no\n", ("name",)),
    ("sexagesimal", GOOD.replace("max_steps: 1", "max_steps: 1:00:00:00:00:00:00:00:00"), ("max_steps",)),
    ("a number of 100,000 digits", GOOD.replace("max_steps: 1", "max_steps: " + "9" * 100_000), ("r.yaml",)),
    ("infinity", GOOD + "  lr: .inf\n", ("lr",)),
    ("1e400", GOOD + "  lr: 1.0e+400\n", ("lr",)),
    ("nan", GOOD + "  lr: .nan\n", ("lr",)),
    ("a base of null bytes", GOOD.replace("demo-deberta", '"a\\0b"'), ("base",)),
    ("a base of 5,000 characters", GOOD.replace("demo-deberta", "a" * 5000), ("base",)),
    ("a base of control characters", GOOD.replace("demo-deberta", '"a\\e[2Jb"'), ("base",)),
    ("a base that is empty", GOOD.replace("demo-deberta", "''"), ("base",)),
):  # fmt: skip
    PART.add("YAML", label, recipe(content), *says)
PART.add("YAML", "no code runs", lambda f, w: recipe("model: !!python/object/apply:os.system ['touch pwned']\n")(f, w), "r.yaml")  # fmt: skip
PART.add(
    "YAML",
    "surrogates in the description",
    recipe(GOOD + 'description: "\\ud800"\n'),
    "r",
    check=prints("demo-deberta"),
)
PART.add("YAML", "a byte order mark", recipe("\ufeff" + GOOD), check=prints("demo-deberta"))
PART.add("YAML", "line ends of Windows", recipe(GOOD.replace("\n", "\r\n")), check=prints("demo-deberta"))


def kept(folder: Path, outcome: Outcome) -> None:
    assert not (folder / "pwned").exists(), "code ran"
    assert (folder / "run/model/model.safetensors").is_file(), "no model"


# Numbers: each beyond what a run can have, told before anything is allocated.
NUMBERS = {
    "train.epochs": ["1e9", "1e-320", "-0.0", "true"],
    "train.max_steps": ["0", "1e3", "2147483648", "-1", "yes", "1.5"],
    "train.batch_size": ["2147483647", "0"],
    "train.tokens_per_micro_batch": ["2147483647"],
    "train.seed": ["-1", "4294967296", "1.5"],
    "train.lr": ["1e300", "1e10", "0", "-1e-4"],
    "train.head_lr": ["1e300"],
    "train.betas": ["[1,1]", "[-0.1,0.9]", "[0.9,1.0]", "[0.9]", "[0.9,.nan]", "[0.9,0.99,0.999]", "0.9"],
    "train.eps": ["1e300", "0", "1e-400"],
    "train.weight_decay": ["1e300", "-1", ".inf"],
    "train.max_grad_norm": ["1e-320", "0", "-1"],
    "train.warmup": ["1", "-0.1"],
    "train.label_smoothing": ["1.0"],
    "train.layer_decay": ["0", "1e-300"],
    "train.keep": ["2147483647"],
    "train.timeout_s": ["2147483647", "0"],
    "data.max_tokens": ["2147483647", "1e9", "15"],
    "data.prompt_cap": ["2147483647"],
    "data.sample_rows": ["2147483647"],
    "data.share": ["0", "1e-300", "1.1"],
    "data.paraphrased": ["1.0"],
    "model.head_hidden": ["2147483647"],
    "model.layers": ["[99]", "[0,0]", "[]", "[-1]", "[" + ",".join(map(str, range(5000))) + "]"],
    "model.freeze": ["99999", "-1", "0"],
    "model.lora.r": ["2147483647", "100000", "0"],
    "model.lora.alpha": ["1e300", "-1", "0", ".nan"],
    "model.lora.targets": ["[nowhere]", "[]", "'('", "[1]"],
    "predict.tokens_per_block": ["2147483647"],
    "predict.lease_s": ["1e300", "1e-300", "0"],
    "log.project": ['"a\\nb"', "''"],
}
LORA = ("model.method=lora",)
for key, values in NUMBERS.items():
    for value in values:
        base = "demo-deberta-lora" if "lora" in key else "demo-deberta-mlp" if "hidden" in key else "demo-deberta"
        PART.add("numbers", f"{key}={value[:20]}", lambda f, w, k=key, v=value, b=base: train(f, w, f"{k}={v}", "train.max_steps=1" if "steps" not in k else "train.epochs=1", base=b), key.split(".")[1], heavy=key in ("model.layers", "model.freeze", "model.lora.targets"))  # fmt: skip
for key, value in {"ce": "1e400", "kl": "1e300", "temperature": "1e-320", "teacher_weights": "[1e300]", "soft_only": "1"}.items():  # fmt: skip
    PART.add("numbers", f"distill.{key}={value}", lambda f, w, k=key, v=value: ["recipes", "distill-demo", "--set", f"distill.{k}={v}"], key)  # fmt: skip
for key, value in {"cosine": "-1", "teacher_weights": "[]"}.items():
    PART.add("numbers", f"distill.{key}={value}", lambda f, w, k=key, v=value: [w.copy("t.csv", f), "distill", "--data", "t.csv", "--teachers", "bayes", "--out", "run", "--set", f"distill.{k}={v}"][1:], key)  # fmt: skip

OF_THE_RECIPE = ("train=1", "__class__=1", "train.lr=&a [*a]", "a" * 100_000 + "=1")
for change in ("", "=", "=1", "train", ".=1", "train..lr=1", "..=1", "train.lr.x=1", "train.lr", "train.lr={", "train.lr='",
               "train.lr=!!python/name:os.system", "train.lr=\x1b[31m", "train." + "a." * 50_000 + "b=1",
               "train.lr=" + "[" * 50_000, "name=..", *OF_THE_RECIPE):  # fmt: skip
    says = "in the recipe" if change in OF_THE_RECIPE else "name" if "name=" in change or "\x1b" in change else "set"
    PART.add("changes", repr(change[:40]), lambda f, w, c=change: ["recipes", "demo-deberta", "--set", c], says)


# Ladders and pipelines.
def ladder(content: str) -> Make:
    def make(folder: Path, world: World) -> Words:
        world.copy("t.csv", folder)
        (folder / "l.yaml").write_text(content)
        return ["ladder", "l.yaml", "--data", "t.csv", "--out", "o", "--set", "train.max_steps=1"]

    return make


for label, content, says in (
    ("a rung named ../x", "rungs: {../x: {recipe: demo-deberta}}", "../x"),
    ("a rung named /tmp/x", "rungs: {/tmp/x: {recipe: demo-deberta}}", "/tmp/x"),
    ("a rung of a null byte", 'rungs: {"a\\0b": {recipe: demo-deberta}}', "rung"),
    ("a rung of 300 characters", f"rungs: {{{'a' * 300}: {{recipe: demo-deberta}}}}", "rung"),
    ("a rung of a line break", 'rungs: {"a\\nb": {recipe: demo-deberta}}', "rung"),
    ("two rungs that differ in case and spaces", "rungs: {a b: {recipe: demo-deberta}, a-b: {recipe: demo-deberta}}", "rung"),
    ("a rung without a name", 'rungs: {"": {recipe: demo-deberta}}', "rung"),
    ("no rungs", "rungs: {}", "rung"),
    ("5,000 rungs", "rungs: {" + ",".join(f"r{n}: {{recipe: demo-deberta}}" for n in range(5_000)) + "}", "rung"),
    ("20,000 rungs", "rungs: {" + ",".join(f"r{n}: {{recipe: a}}" for n in range(20_000)) + "}", "keys and values"),
    ("a recipe of the rung that climbs", "rungs: {a: {recipe: ../../etc/passwd}, b: {recipe: demo-deberta}}", "passwd"),
    ("rungs as a list", "rungs: [a, b]", "rungs"),
    ("set as a word", "rungs: {a: {recipe: demo-deberta, set: train.lr=1}}", "set"),
    ("set of 5", "rungs: {a: {recipe: demo-deberta, set: [5]}}", "set"),
    ("a rung after one that is not there", "rungs: {a: {recipe: demo-deberta, base: gone}}", "base"),
):  # fmt: skip
    PART.add("ladders", label, ladder(content), says)

PIPELINE: dict[str, Any] = {
    "folds": 2,
    "teachers": {"gemma2": {"recipe": "demo-gemma2", "set": []}},
    "student": {"recipe": "distill-demo", "set": []},
    "sample": {"rows": 60, "extra_rows": 0, "test_rows": 20, "profile": "short"},
}


def pipeline(change: Callable[[dict[str, Any]], Any], *words: str) -> Make:
    def make(folder: Path, world: World) -> Words:
        content = json.loads(json.dumps(PIPELINE))
        changed = change(content)
        (folder / "p.yaml").write_text(json.dumps(content if changed is None else changed))
        return ["pipeline", "--recipe", "p.yaml", "--out", "o", "--stages", *words]

    return make


def teacher(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.update(teachers={name: content["teachers"]["gemma2"]})


for label, change, says in (
    ("a teacher named ../x", teacher("../x"), "../x"),
    ("a teacher named -x", teacher("-x"), "-x"),
    ("a teacher named student", teacher("student"), "student"),
    ("a teacher of a null byte", teacher("a\x00b"), "teacher"),
    ("a teacher of a blank", teacher(" "), "teacher"),
    ("a teacher of an equals sign and a comma", teacher("a=b,c"), "teacher"),
    ("a teacher of 300 characters", teacher("a" * 300), "teacher"),
    ("a teacher of a line break", teacher("a\nb"), "teacher"),
    ("no teachers", lambda content: content.update(teachers={}), "teachers"),
    ("folds: 1", lambda content: content.update(folds=1), "folds"),
    ("folds: 10 ** 9", lambda content: content.update(folds=10**9), "folds"),
    ("folds: a word", lambda content: content.update(folds="two"), "folds"),
    ("beside: -1", lambda content: content.update(beside=-1), "beside"),
    ("beside: 10 ** 9", lambda content: content.update(beside=10**9), "beside"),
    ("sample rows: 10 ** 15", lambda content: content["sample"].update(rows=10**15), "rows"),
    ("sample rows: -5", lambda content: content["sample"].update(rows=-5), "rows"),
    ("no student", lambda content: content.pop("student") and None, "student"),
    ("a student that is a list", lambda content: content.update(student=[]), "student"),
    ("a student of a recipe that is none", lambda content: content["student"].update(recipe="nope"), "nope"),
    ("a recipe that is its own pipeline", lambda content: content["student"].update(recipe="p.yaml"), "p.yaml"),
    ("unknown fields", lambda content: content.update(evil=1), "evil"),
):  # fmt: skip
    PART.add("pipelines", label, pipeline(change), says)
PART.add("pipelines", "a stage that is none", lambda f, w: [*pipeline(lambda c: None)(f, w)[:-1], "--stage", "../x"], "../x")  # fmt: skip


# DeepSpeed's JSON.
def ds(content: str | bytes) -> Make:
    def make(folder: Path, world: World) -> Words:
        world.copy("t.csv", folder)
        (folder / "ds.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["train", "--data", "t.csv", "--out", "run", "--ds", "ds.json", "--set", "train.max_steps=1"]

    return make


for label, content in {
    "nested deep": '{"a":' * 100_000,
    "a key twice": '{"zero_optimization": {"stage": 2}, "zero_optimization": {"stage": 3}}',
    "NaN": '{"zero_optimization": {"stage": NaN}}',
    "a stage of a word": '{"zero_optimization": {"stage": "three"}}',
    "a stage of 99": '{"zero_optimization": {"stage": 99}}',
    "a stage of -1": '{"zero_optimization": {"stage": -1}}',
    "a stage of a list": '{"zero_optimization": {"stage": [2]}}',
    "zero_optimization a list": '{"zero_optimization": [2]}',
    "zero_optimization a word": '{"zero_optimization": "2"}',
    "a batch of -1": '{"train_batch_size": -1, "zero_optimization": {"stage": 1}}',
    "gradient_clipping of a word": '{"gradient_clipping": "much", "zero_optimization": {"stage": 1}}',
    "an optimizer that is a list": '{"optimizer": [], "zero_optimization": {"stage": 1}}',
    "an optimizer of another type": '{"optimizer": {"type": "Lamb", "params": 5}, "zero_optimization": {"stage": 1}}',
    "bf16 a word": '{"bf16": "yes", "zero_optimization": {"stage": 1}}',
    "fp16 a list": '{"fp16": [true], "zero_optimization": {"stage": 1}}',
    "a field that is none": '{"zero_optimisation": {"stage": 1}}',
    "offload of a path": '{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/etc"}}}',
    "a bucket of 1e400": '{"zero_optimization": {"stage": 2, "reduce_bucket_size": 1e400}}',
    "a bucket below 0": '{"zero_optimization": {"stage": 2, "reduce_bucket_size": -5}}',
    "binary": bytes(range(256)),
    "empty": "",
}.items():
    PART.add("DeepSpeed", label, ds(content), "ds.json", heavy=True)
