"""One file a logits processor: `ORDER`, `is_active`, `prepare`, `apply` (style guide, recipe 3)."""
