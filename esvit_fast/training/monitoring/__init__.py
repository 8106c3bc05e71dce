"""How a run is and shows itself: records, signs of health, the doctor, progress and profiles."""
