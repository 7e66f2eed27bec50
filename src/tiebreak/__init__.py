"""tiebreak: judges that predict which of two chatbot answers people prefer."""

__version__ = "0.1.0"

CLASSES = ("winner_model_a", "winner_model_b", "winner_tie")
"""The three classes in the order of every logit, probability and one-hot column."""
