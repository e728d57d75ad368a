"""Parts of a decoder: each with a reference in plain torch and, where it pays, a native kernel. Knows no model and no slot policy."""
