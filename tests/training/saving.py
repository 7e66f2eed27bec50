"""A training whose end is weighed: rank 0's resident memory before the model is saved, and the most while it is.

Usage (under a launcher): saving.py OUT.json FOLDER TABLE fsdp|ZERO3.json. A QLoRA of one step over the base in FOLDER.
"""

import gc
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "preflight"))
from test_memory_peaks import resident

from tiebreak.config import load_recipe
from tiebreak.training import run

CHANGES = ["model.method=qlora", "train.max_steps=1", "train.batch_size=4", "data.max_tokens=160", "model.lora.r=4"]


def main(out: Path, folder: str, table: Path, engine: str) -> None:
    honest = run.finish

    def finish(job, *rest):
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        done = honest(job, *rest)
        if job.engine.ranks.first:
            out.write_text(json.dumps({"before": before, "peak": resident("VmHWM")}))
        return done

    run.finish = finish
    recipe = load_recipe("demo-llama2", [f"model.base={folder}", *CHANGES])
    ds = None if engine == "fsdp" else Path(engine)
    engine = "fsdp" if ds is None else "deepspeed"
    run.train(recipe, data=[table], valid="none", out=out.parent / "run", engine=engine, ds=ds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
