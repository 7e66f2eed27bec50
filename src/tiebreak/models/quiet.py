"""What transformers need not say."""


def quieten_transformers() -> None:
    """No progress bar for every small file, no warning that a head is new: it is meant to be."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
