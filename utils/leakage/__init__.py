"""What a model's parameters give away of the recordings it was trained on: attacks by membership, and what they find."""
