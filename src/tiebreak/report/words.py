"""What the report says beside its figures: published reference values."""

GPT4_CONSISTENCY = 0.65
AUTOJ_GPT4_CONSISTENCY = 0.86
"""Shares of equal verdicts in both orders, as in `PUBLISHED`."""
PUBLISHED = {
    "scores": (
        "Published on the Arena's full table: uniform 1.099, class prior 1.097, TF-IDF 1.038 to 1.066; "
        "DeBERTa-v3 0.99 to 1.08, Gemma-2-9B with QLoRA 0.94, distilled from two 70B teachers 0.87."
    ),
    "calibration": (
        "Published: a well-trained three-class judge has an ECE of about 0.011 and a best temperature of 1.0."
    ),
    "position": (
        "Published: GPT-4 gives the same verdict in both orders on 65\u00a0% of MT-bench comparisons (Zheng et al. "
        "2023, arXiv:2306.05685) and on 86\u00a0% of the Auto-J set."
    ),
    "verbosity": (
        "Published: people prefer the longer answer in 63.6\u00a0% of comparisons, GPT-4 as a judge in 75.1\u00a0%. "
        "In the Arena's training table it wins 61\u00a0% of the decided rows."
    ),
    "self_enhancement": (
        "Published: against people's votes, GPT-4 favours itself with a win rate about 10 points higher, "
        "Claude-v1 with about 25 points (Zheng et al. 2023, arXiv:2306.05685)."
    ),
    "repetition": (
        "Published: an answer padded with a reworded copy of its own list fooled Claude-v1 and GPT-3.5 in 91.3\u00a0% "
        "of cases, GPT-4 in 8.7\u00a0% (Zheng et al. 2023, arXiv:2306.05685). That attack rewords; this one copies."
    ),
}
"""Published reference values shown beside the report's, by section of the page."""
