"""The stages of the GPU check: each a module with `run(settings) -> figures`, a summary among them."""
