"""The fusion model, its variants with frozen parts, and the encoders and tokenizers they are built from.

Classes are imported lazily: parsing flags and printing tables need no torch.
"""

from importlib import import_module

# Hz, of the speech encoders' input.
SAMPLE_RATE = 16_000
# For randomly initialized encoders, and for weights missing from a checkpoint.
ENCODER_SEED = 12
# "model" in a run's config.json → class.
MODELS = {
    "fusion": "FusionClassifier",
    "fusion_frozen_speech": "FrozenSpeechClassifier",
    "adapter": "AdapterFusionClassifier",
}
PLACES = {
    "FusionClassifier": "models.fusion",
    "FrozenSpeechClassifier": "models.fusion",
    "AdapterFusionClassifier": "models.adapter",
    "is_task_parameter": "models.adapter",
    "load_tokenizer": "models.tokenizer",
}
__all__ = ["ENCODER_SEED", "MODELS", "SAMPLE_RATE", *PLACES]


def __getattr__(name):
    if name not in PLACES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def model_class(key):
    """Return the class of a model by its key in MODELS."""
    return __getattr__(MODELS[key])
