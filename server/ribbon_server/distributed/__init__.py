"""What it takes for several ranks to be one model."""
