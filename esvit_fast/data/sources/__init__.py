"""Where images come from: one file a kind, and what the kinds share."""
