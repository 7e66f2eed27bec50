"""tiebreak: judges that predict which of two chatbot answers people prefer."""

__version__ = "0.1.0"
