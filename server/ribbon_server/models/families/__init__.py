"""One short file a family: Hugging Face configuration to spec, and the checkpoint's names."""
