"""How names become splits and classes, alike for every kind of source."""
