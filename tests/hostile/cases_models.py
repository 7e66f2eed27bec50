"""Model folders from strangers: configurations, code, pickles, weights and indexes of judges and bases."""

import struct
from pathlib import Path
from typing import Any

from collecting import Part, cut, edit_json, flip
from harness import Outcome
from model_changes import (
    adapter,
    base,
    config,
    header,
    index,
    judge,
    removed,
    same_as_world,
    tensors,
    written,
)

PART = Part("models")

for label, change in {
    **{
        f"{name}: {value!r}"[:60]: config(**{name: value})
        for name, value in (
            ("hidden_size", 10**9),
            ("hidden_size", 0),
            ("hidden_size", 33),
            ("hidden_size", "64"),
            ("hidden_size", 1e400),
            ("num_hidden_layers", 10**7),
            ("num_hidden_layers", -1),
            ("num_hidden_layers", 0),
            ("num_hidden_layers", None),
            ("num_attention_heads", 0),
            ("num_attention_heads", 7),
            ("intermediate_size", 10**12),
            ("intermediate_size", 2.5),
            ("vocab_size", -1),
            ("vocab_size", 10**10),
            ("max_position_embeddings", 10**12),
            ("max_relative_positions", 10**10),
            ("position_buckets", -77),
            ("pos_att_type", 5),
            ("pos_att_type", ["x"]),
            ("conv_kernel_size", -3),
            ("hidden_act", "evil"),
            ("hidden_act", 7),
            ("pad_token_id", 10**9),
            ("model_type", "../evil"),
            ("model_type", 7),
            ("model_type", None),
            ("model_type", "gpt2"),
            ("type_vocab_size", 10**11),
            ("layer_norm_eps", "small"),
            ("hidden_dropout_prob", 7),
            ("quantization_config", {"quant_method": "evil"}),
            ("quantization_config", [1]),
            ("pooler_hidden_size", 10**11),
            ("torch_dtype", "evil"),
            ("dtype", "os.system"),
            ("id2label", [1, 2]),
            ("id2label", {"x": "y"}),
            ("architectures", "evil"),
        )
    },
}.items():
    PART.add("config.json", label, judge(change), "m", check=same_as_world, heavy=True)
PART.add("config.json", "of another judge's family", judge(lambda f: config(model_type="llama")(f)), "m", heavy=True)
for label, change in {
    "nested deep": written("config.json", '{"a":' * 100_000),
    "a key twice": lambda f: written("config.json", (f / "config.json").read_text().replace("{", '{"hidden_size": 8,', 1))(f),
    "100 MB of spaces": written("config.json", b"{" + b" " * (100 << 20) + b"}"),
    "a list": written("config.json", "[]"),
    "gone": removed("config.json"),
    "a link that goes round": lambda f: (removed("config.json")(f), (f / "config.json").symlink_to("config.json")),
    "UTF-16": lambda f: written("config.json", (f / "config.json").read_text().encode("utf-16"))(f),
}.items():  # fmt: skip
    PART.add("config.json", label, judge(change), "m", heavy=True)
    if label != "gone":
        PART.add("config.json", f"a base's: {label}", base(change), "m", heavy=True)
for label, fields in {"hidden_size": {"hidden_size": 10**9}, "vocab_size": {"vocab_size": 10**12},
                      "layers": {"num_hidden_layers": 10**7}, "words": {"hidden_size": "big", "intermediate_size": None},
                      "negative": {"intermediate_size": -5}}.items():  # fmt: skip
    for command in ("train", "preflight"):
        PART.add("bases", f"{command}: {label}", base(config(**fields), command), "m", heavy=True)


def no_code(folder: Path, _: Outcome) -> None:
    assert not list(folder.rglob("pwned")), "code ran"


CODE = "open('pwned', 'w')\nimport os\nos.system('touch pwned')\n"
for kind, make in {"judge": judge, "base": base}.items():
    remote = {
        "AutoConfig": "evil.Config",
        "AutoModelForSequenceClassification": "evil.Model",
        "AutoTokenizer": ["evil.T", None],
    }

    def with_code(folder: Path, fields: Any = remote, other: str = "evil") -> None:
        edit_json(folder / "config.json", lambda c: {**c, "auto_map": fields, "model_type": other})
        (folder / "evil.py").write_text(CODE)

    PART.add("remote code", f"{kind}: a class of its own", make(with_code), "m", heavy=True)
    PART.add("remote code", f"{kind}: a tokenizer of its own", make(lambda f, w=with_code: (edit_json(f / "tokenizer_config.json", lambda c: {**c, "auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "T"}), (f / "evil.py").write_text(CODE))), "m", check=no_code, heavy=True)  # fmt: skip


def pickled(folder: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (open, ("pwned", "w"))

    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


for kind, make in {"judge": judge, "base": base}.items():
    PART.add("pickles", kind, make(pickled), "safetensors", heavy=True)
PART.add("pickles", "adapters", adapter(lambda f: (pickled(f), (f / "pytorch_model.bin").rename(f / "adapter_model.bin"))), "safetensors", heavy=True)  # fmt: skip
for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "trained_prompts.npy"):
    PART.add("a byte changed", name, judge(lambda f, n=name: flip(f / n, 0.6), sealed=True), "m", heavy=True)
for name in ("added_tokens.json", "generation_config.json", "more.safetensors"):
    PART.add("a file that has come", name, judge(written(name, "{}"), sealed=True), name, heavy=True)
PART.add("pickles", "beside whole weights", judge(lambda f: (f / "pytorch_model.bin").write_bytes(b"\x80\x04.")), check=same_as_world, heavy=True)  # fmt: skip

PART.add(
    "weights", "two tensors swapped", judge(tensors(lambda held: held.update(swap(held))), sealed=True), "m", heavy=True
)
for at in (0.001, 0.01, 0.2, 0.5, 0.8, 0.999):
    PART.add("a byte changed", f"weights at {at}", judge(lambda f, a=at: flip(f / "model.safetensors", a), sealed=True), "m", heavy=True)  # fmt: skip
    PART.add("a byte changed", f"adapters at {at}", adapter(lambda f, a=at: flip(f / "adapter_model.safetensors", a), sealed=True), "m", heavy=True)  # fmt: skip
for share in (0.0, 0.005, 0.5, 0.9999):
    PART.add("weights cut", str(share), judge(lambda f, s=share: cut(f / "model.safetensors", s)), "m", heavy=True)
    PART.add("weights cut", f"base: {share}", base(lambda f, s=share: cut(f / "model.safetensors", s)), "m", heavy=True)
for label, change in {
    "a header of 2 ** 60 bytes": written("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "a header of 90 MB": written("model.safetensors", struct.pack("<Q", 90 << 20) + b" " * (90 << 20)),
    "a header nested deep": written("model.safetensors", struct.pack("<Q", 500_000) + b'{"a":' * 100_000),
    "a tensor twice": lambda f: f,
    "offsets beyond": header(lambda told: [v.update(data_offsets=[0, 2**50]) for v in told.values() if "dtype" in v] and None),
    "offsets backward": header(lambda told: [v.update(data_offsets=v["data_offsets"][::-1]) for v in told.values() if "dtype" in v] and None),
    "shapes of -1": header(lambda told: [v.update(shape=[-1]) for v in told.values() if "dtype" in v] and None),
    "shapes of 2 ** 63": header(lambda told: [v.update(shape=[2**63, 2]) for v in told.values() if "dtype" in v] and None),
    "an unknown dtype": header(lambda told: [v.update(dtype="EVIL") for v in told.values() if "dtype" in v] and None),
    "a dtype of a number": header(lambda told: [v.update(dtype=7) for v in told.values() if "dtype" in v] and None),
    "a list": header(lambda told: [1]),
    "a folder": lambda f: (removed("model.safetensors")(f), (f / "model.safetensors").mkdir()),
    "an empty table of tensors": header(lambda told: {}),
    "names of null bytes": header(lambda told: {f"{k}\x00": v for k, v in told.items() if k != "__metadata__"}),

    "a tensor of other width": tensors(lambda held: held.update({k: v[:, :-1].copy() for k, v in held.items() if v.ndim == 2 and "word" in k})),
    "nan everywhere": tensors(lambda held: [v.fill(float("nan")) for v in held.values()] and None),
    "integers for floats": tensors(lambda held: held.update({k: v.astype("int32") for k, v in held.items()})),
    "a layer missing": tensors(lambda held: [held.pop(k) for k in list(held) if ".layer.0." in k] and None),
    "the head missing": tensors(lambda held: [held.pop(k) for k in list(held) if k.startswith("classifier")] and None),
    "a head of two classes": tensors(lambda held: held.update({k: v[:2].copy() for k, v in held.items() if k.startswith("classifier")})),
}.items():  # fmt: skip
    if label != "a tensor twice":
        PART.add("weights", label, judge(change), "m", heavy=True)


def swap(held: dict[str, Any]) -> dict[str, Any]:
    names = [name for name, value in held.items() if value.ndim == 2]
    first = next(a for a in names for b in names if a < b and held[a].shape == held[b].shape)
    second = next(b for b in names if b > first and held[b].shape == held[first].shape)
    return {first: held[second], second: held[first]}


for label, change in {
    "climbs out": index(lambda name: "../outside.safetensors"),
    "an absolute path": index(lambda name: "/etc/passwd"),
    "names a file that is not there": index(lambda name: "gone.safetensors"),
    "names numbers": index(lambda name: 5),  # type: ignore[arg-type,return-value]
    "names a folder": index(lambda name: "."),
    "names a null byte": index(lambda name: "a\x00b"),
    "a list": lambda f: (index(lambda name: "m1.safetensors", True)(f), written("model.safetensors.index.json", "[]")(f)),
    "without a map": lambda f: (index(lambda name: "m1.safetensors", True)(f), written("model.safetensors.index.json", "{}")(f)),
    "nested deep": lambda f: (index(lambda name: "m1.safetensors", True)(f), written("model.safetensors.index.json", '{"a":' * 100_000)(f)),
    "through a link": lambda f: (index(lambda name: "m1.safetensors")(f), (f / "m1.safetensors").symlink_to("../outside.safetensors")),
}.items():  # fmt: skip
    for kind, make in {"judge": judge, "base": base}.items():
        PART.add("an index", f"{kind}: {label}", make(change), "m", heavy=True)
