"""Model folders from strangers: tokenizers, manifests, adapters, and what is made of them."""

from pathlib import Path

from collecting import Part, cut, edit_json, flip
from harness import Words, World
from model_changes import (
    Change,
    adapter,
    base,
    judge,
    manifest,
    recipe,
    removed,
    same_as_world,
    tensors,
    trained,
    written,
)

PART = Part("adapters")

TOKENIZERS: dict[str, Change] = {
    "cut": lambda f: cut(f / "tokenizer.json", 0.7),
    "a byte changed": lambda f: flip(f / "tokenizer.json", 0.5),
    "a list": written("tokenizer.json", "[]"),
    "nested deep": written("tokenizer.json", '{"a":' * 100_000),
    "empty": written("tokenizer.json", ""),
    "a vocabulary of words as ids": lambda f: edit_json(f / "tokenizer.json", lambda c: c["model"].update(vocab={"a": "b"}) and None),
    "ids below 0": lambda f: edit_json(f / "tokenizer.json", lambda c: c["model"].update(vocab={"a": -1}) and None),
    "another kind of model": lambda f: edit_json(f / "tokenizer.json", lambda c: c["model"].update(type="EVIL") and None),
    "a regular expression that never ends": lambda f: edit_json(f / "tokenizer.json", lambda c: c.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}) and None),
    "a regular expression that is none": lambda f: edit_json(f / "tokenizer.json", lambda c: c.update(normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}) and None),
    "tokens with ids of 10 ** 9": lambda f: edit_json(f / "tokenizer.json", lambda c: [t.update(id=10**9) for t in c["added_tokens"]] and None),
    "settings that are a list": written("tokenizer_config.json", "[]"),
    "settings cut": lambda f: cut(f / "tokenizer_config.json"),
    "a class that is none": lambda f: edit_json(f / "tokenizer_config.json", lambda c: c.update(tokenizer_class="os.system") and None),
    "a length of a word": lambda f: edit_json(f / "tokenizer_config.json", lambda c: c.update(model_max_length="big") and None),
    "a padding token of a list": lambda f: edit_json(f / "tokenizer_config.json", lambda c: c.update(pad_token=[1]) and None),
    "UTF-16": written("tokenizer.json", "{}".encode("utf-16")),
}  # fmt: skip
for label, change in TOKENIZERS.items():
    PART.add("tokenizers", f"judge: {label}", judge(change), "m", heavy=True)
    if "length" not in label and "never" not in label and "byte" not in label:
        PART.add(
            "tokenizers",
            f"base: {label}",
            base(change),
            "m",
            check=trained if "10 **" in label or "class" in label else None,
            heavy=True,
        )

for label, change in {
    "a list": written("tiebreak.json", "[]"),
    "nested deep": written("tiebreak.json", '{"a":' * 100_000),
    "cut": lambda f: cut(f / "tiebreak.json"),
    "a key twice": lambda f: written("tiebreak.json", (f / "tiebreak.json").read_text().replace("{", '{"recipe": {},', 1))(f),
    "baselines: none": manifest(baselines={}),
    "a prior of two": manifest(baselines={"prior": [0.5, 0.5]}),
    "a prior of nan": lambda f: written("tiebreak.json", (f / "tiebreak.json").read_text().replace('"prior": [', '"prior": [NaN,', 1))(f),
    "a prior that sums to 9": manifest(baselines={"prior": [3, 3, 3]}),
    "a prior of a number": manifest(baselines={"prior": 5}),
    "classes: four": manifest(classes=["a", "b", "c", "d"]),
    "classes in another order": manifest(classes=["winner_tie", "winner_model_a", "winner_model_b"]),
    "recipe: none": manifest(recipe={}),
    "recipe: a list": manifest(recipe=[]),
    "recipe: 10 ** 9 tokens": recipe("data.max_tokens", 10**9),
    "recipe: a base that climbs": lambda f: (recipe("model.base", "../../etc")(f), recipe("model.method", "lora")(f)),
    "recipe: other features": recipe("data.features", ["length"]),
    "recipe: another head": recipe("model.head", "mlp"),
    "recipe: adapters": recipe("model.method", "lora"),
    "template of numbers": manifest(template={"head": 5}),
    "template of 50 MB": manifest(template={"head": "x" * (50 << 20), "before_first": "", "before_second": "", "tail": "", "turn": ""}),
    "template of other tokens": manifest(template=None, tokenizer=None, recipe=5),
    "trained: elsewhere": manifest(trained={"prompts": 1, "sha256": "../../x"}),
    "in_sample: a word": manifest(in_sample=7),
    "version: 10 ** 20": manifest(version=10**20),
    "version: 0": manifest(version=0),
}.items():  # fmt: skip
    check = same_as_world if label.startswith("trained") else None
    PART.add("tiebreak.json", label, judge(change), "m", check=check, heavy=True)

NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n\x80\x04."
for label, change in {"a pickle": written("trained_prompts.npy", NPY), "cut": lambda f: cut(f / "trained_prompts.npy"),
                      "gone": removed("trained_prompts.npy")}.items():  # fmt: skip
    PART.add("trained prompts", label, judge(change), "trained_prompts.npy", check=same_as_world, heavy=True)

ADAPTERS: dict[str, Change] = {
    **{f"{k}: {v!r}"[:50]: (lambda f, k=k, v=v: edit_json(f / "adapter_config.json", lambda c: {**c, k: v}))
       for k, v in (("r", 10**9), ("r", "big"), ("r", 0), ("r", 8), ("r", -1), ("lora_alpha", "x"), ("lora_alpha", 1e400), ("lora_alpha", 99),
                    ("target_modules", "(a+)+$"), ("target_modules", ["nowhere"]), ("target_modules", 5), ("target_modules", "("),
                    ("peft_type", "LOHA"), ("peft_type", 7), ("task_type", "EVIL"), ("modules_to_save", ["evil"]), ("modules_to_save", None),
                    ("bias", "evil"), ("use_dora", True), ("rank_pattern", {"q_proj": 10**9}), ("layers_to_transform", [99]),
                    ("base_model_name_or_path", "/etc"), ("base_model_name_or_path", 5), ("auto_mapping", {"base_model_class": "system", "parent_library": "os"}),
                    ("megatron_config", {"x": 1}), ("loftq_config", 5), ("init_lora_weights", "evil"))},
    "cut": lambda f: cut(f / "adapter_config.json"),
    "a list": written("adapter_config.json", "[]"),
    "nested deep": written("adapter_config.json", '{"a":' * 100_000),
    "gone": removed("adapter_config.json"),
    "weights gone": removed("adapter_model.safetensors"),
    "no matrices": tensors(lambda held: [held.pop(k) for k in list(held) if "lora_" in k] and None, "adapter_model.safetensors"),
    "one matrix missing": tensors(lambda held: held.pop(next(k for k in held if "lora_B" in k)), "adapter_model.safetensors"),
    "no head": tensors(lambda held: [held.pop(k) for k in list(held) if "score" in k] and None, "adapter_model.safetensors"),
    "matrices of another rank": tensors(lambda held: held.update({k: v[:4].copy() for k, v in held.items() if "lora_A" in k}), "adapter_model.safetensors"),
    "other names": tensors(lambda held: [held.update({f"x.{k}": held.pop(k)}) for k in list(held)] and None, "adapter_model.safetensors"),
    "nan": tensors(lambda held: [v.fill(float("nan")) for v in held.values()] and None, "adapter_model.safetensors"),
}  # fmt: skip
for label, change in ADAPTERS.items():
    PART.add(
        "adapters",
        label,
        adapter(change),
        "m",
        check=same_as_world if label.startswith("base_model") else None,
        heavy=True,
    )
    if label not in ("nan", "a byte changed") and not label.startswith(("base_model", "lora_alpha: 99", "megatron")):

        def both(folder: Path, world: World, change: Change = change) -> Words:
            world.copy("lora/model", folder, "m")
            (folder / "n").symlink_to(world.folder / "lora/model")
            change(folder / "m")
            return ["merge-adapters", "n", "m", "--out", "o", "--how", "factors"]

        PART.add("merge-adapters", label, both, "m", heavy=True)
for form in ("onnx", "merged"):
    PART.add("export", f"{form}: weights cut", judge(lambda f: cut(f / "model.safetensors"), "export", "m", f"--{form}", "--out", "o", "--rows", "10"), "m", heavy=True)  # fmt: skip
    PART.add("export", f"{form}: a byte changed", judge(lambda f: flip(f / "model.safetensors", 0.7), "export", "m", f"--{form}", "--out", "o", "--rows", "10", sealed=True), "m", heavy=True)  # fmt: skip
