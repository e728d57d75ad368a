"""From what the operator named to a complete local directory. Nothing here imports torch or transformers until it converts."""
