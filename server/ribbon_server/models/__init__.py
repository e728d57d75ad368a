"""Models as data: families make specs, the loader fills one decoder. Knows no slots, requests or ranks."""
