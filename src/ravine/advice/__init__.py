"""What short measurements say before a comparison is paid for: the regime, the verdict to expect, settings."""

from ravine.advice.api import Advice, Measured, Setting, advise
from ravine.advice.words import sentences

__all__ = ["Advice", "Measured", "Setting", "advise", "sentences"]
