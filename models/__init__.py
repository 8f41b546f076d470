"""The fusion model, its adapter variant, and the encoders and tokenizers they are built from."""

from models.adapter import AdapterFusionClassifier, is_task_parameter
from models.fusion import FusionClassifier
from models.tokenizer import load_tokenizer

__all__ = ["AdapterFusionClassifier", "FusionClassifier", "is_task_parameter", "load_tokenizer"]
