"""The three classes, and how a label is written."""

import numpy as np

CLASSES = ("winner_model_a", "winner_model_b", "winner_tie")
"""Column names, in the order of every logit, probability and one-hot column."""
CLASS_NAMES = ("A", "B", "tie")
"""The same classes as people read them."""
TIE = 2
NO_LABEL = -1
"""The label of an unlabelled row."""
SWAPPED_CLASS = np.array([1, 0, TIE])
"""The class of each class after A and B change places."""
