"""One BERT or NEZHA encoder for words and for item ids.

The doors, in the order of the corridor; everything else is found in the module of its subject.
"""

from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.encoder import Encoder
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.retrieval.recommender import Recommender

__all__ = [
    "Encoder",
    "InteractionSettings",
    "MaskedItemModel",
    "NextItemModel",
    "Recommender",
    "Vocabulary",
    "read_interactions",
]
