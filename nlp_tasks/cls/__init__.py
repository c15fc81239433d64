"""Classification: one label, several labels, or a number for a text or a pair of texts."""

from nlp_tasks.cls.classifier import Classifier

__all__ = ["Classifier"]
